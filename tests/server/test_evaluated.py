"""`evaluation.json`: figures of added sums, nothing of small cells, and a run that judges again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.models import flat
from fedward.models.registry import build
from fedward.models.resampled import Taken, interval, resampled_of
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Sums
from fedward.privacy.signed_study import sign_study
from fedward.privacy.small_cells import Hidden
from fedward.server.app import make_app
from fedward.server.evaluated import EVALUATION, Evaluated, evaluated, write_evaluated
from fedward.server.federation import Federation
from fedward.server.run_registry import RunFolder, RunRegistry
from fedward.study.errors import DataError
from fedward.study.study import Study
from tests.secure_sites import study_of
from tests.server.conftest import context
from tests.server.cut_off import PATIENT, SEED, Killed, Watched, private_study, sites_of

SEX = {"column": "sex", "values": ["f", "m"]}
BANDS = {"column": "age", "edges": [0.0, 1.0]}


def table_of(**subgroups: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"replicates": 20, "fewest": 10, "subgroups": subgroups}


def summed(
    study: Study, patients: list[int], elsewhere: list[int], total: int = 100
) -> tuple[Sums, Taken]:
    """Sums of so many patients in each cell, with one record each."""
    task = task_of(study)
    form = resampled_of(study, task)
    assert form is not None
    rng = np.random.default_rng(0)

    def records(count: int) -> Sums:
        sums = np.zeros(task.size)
        sums[0], sums[1] = count, 0.5 * count
        negatives, positives = np.split(sums[6:], 2)
        np.add.at(negatives, rng.integers(200, 700, count // 2), 1)
        np.add.at(positives, rng.integers(400, 900, count - count // 2), 1)
        return sums

    taken = Taken(
        np.array([total, *patients], float),
        np.array(elsewhere, float),
        np.stack([records(count) for count in patients]),
        np.stack([[records(count) for _ in range(20)] for count in (total, *patients)]),
    )
    return np.concatenate([records(total), form.packed(taken)]), taken


def test_figures_and_intervals_are_those_of_the_added_sums() -> None:
    study = study_of(evaluation=table_of(sex=SEX))
    sums, taken = summed(study, [60, 40], [0])
    found = evaluated(study, sums, 0.3)
    task = task_of(study)

    assert found is not None
    assert (found.threshold, found.replicates, found.study) == (0.3, 20, study.digest())
    assert [row.patients for row in (found.everybody, *found.cells)] == [100, 60, 40]
    of_each = [sums[: task.size], *taken.cells]
    for row, own, drawn in zip(
        (found.everybody, *found.cells), of_each, taken.replicates, strict=True
    ):
        metrics = task.metrics(own, 0.3)
        assert row.records == metrics["records"]
        assert set(row.figures) == set(metrics) - {"records", "threshold"}
        for name, figure in row.figures.items():
            assert figure.value == metrics[name]
            if name == "calibration_error":  # its replicates are biased
                assert figure.value is not None
                assert (figure.low, figure.high) == (None, None)
                continue
            ends = interval([task.metrics(each, 0.3)[name] for each in drawn])
            assert (figure.low, figure.high) == ends
    assert (
        found.everybody.figures["sensitivity"].value
        != task.metrics(sums[: task.size])["sensitivity"]
    )


SMALL, BESIDE = Hidden.SMALL, Hidden.WITH_IT


@pytest.mark.parametrize(
    ("patients", "elsewhere", "shown"),
    [
        ([50, 30, 20], 0, [50, 30, 20]),
        ([60, 40, 0], 0, [60, BESIDE, SMALL]),
        ([60, 31, 9], 0, [60, BESIDE, SMALL]),
        ([50, 30, 11], 9, [50, 30, BESIDE]),  # those of no cell are a cell more, and few
        ([50, 30, 9], 11, [50, 30, SMALL]),  # they are hidden in any case, and enough
        ([4, 3, 2], 0, [SMALL, SMALL, SMALL]),  # each could be none, or all 9
        ([1, 0, 0], 0, [BESIDE, BESIDE, BESIDE]),
    ],
    ids=str,
)
def test_small_cells_are_hidden_and_what_would_give_them_away(
    patients: list[int], elsewhere: int, shown: list[int | Hidden]
) -> None:
    study = study_of(evaluation=table_of(age=BANDS))
    sums, _ = summed(study, patients, [elsewhere], total=sum(patients) + elsewhere)
    found = evaluated(study, sums, 0.5)

    assert found is not None
    assert [row.patients for row in found.cells] == shown
    for row in found.cells:
        if isinstance(row.patients, Hidden):
            assert (row.records, row.figures) == (None, {})
        else:
            assert row.figures["auc"].low is not None


def test_a_hidden_cell_hides_nothing_in_another_subgroup() -> None:
    study = study_of(evaluation=table_of(age=BANDS, sex=SEX))
    sums, _ = summed(study, [50, 41, 9, 55, 45], [0, 0])
    found = evaluated(study, sums, 0.5)

    assert found is not None
    assert [row.patients for row in found.cells] == [50, BESIDE, SMALL, 55, 45]


def test_the_file_says_nothing_of_a_hidden_cell_and_reads_as_it_was(tmp_path: Path) -> None:
    study = study_of(evaluation=table_of(age=BANDS))
    sums, _ = summed(study, [60, 31, 9], [0])
    write_evaluated(study, sums, 0.5, tmp_path)
    text = (tmp_path / EVALUATION).read_text("utf-8")
    small = json.loads(text)["cells"][2]

    assert Evaluated.model_validate_json(text) == evaluated(study, sums, 0.5)
    assert small == {
        **{"subgroup": "age", "cell": "1 or more", "patients": "small"},
        **{"records": None, "figures": {}},
    }
    assert (tmp_path / EVALUATION).stat().st_mode & 0o077 == 0


def test_a_study_that_asks_for_nothing_gets_no_file(tmp_path: Path) -> None:
    study = study_of()
    write_evaluated(study, np.zeros(task_of(study).size), 0.5, tmp_path)
    write_evaluated(study_of(evaluation={}), None, 0.5, tmp_path)

    assert not list(tmp_path.iterdir())


def test_a_judging_that_was_killed_is_taken_up_without_whoever_has_left(tmp_path: Path) -> None:
    """It was asked already: three of the four hospitals are enough to end it."""
    study = private_study()
    files = list(sites_of(tmp_path / "s", study).files.values())
    model = flat.flatten(build(study, seed=SEED))

    def judge(grid: Watched) -> Sums:
        folder = tmp_path / "c"
        federation = Federation(
            study, grid, run="run", seed=SEED, folder=folder, lost_rounds=PATIENT
        )
        return federation.judged_again(model, None)

    with (
        Watched(files, lambda step, _: step[:2] == ("push", "evaluate")) as grid,
        pytest.raises(Killed),
    ):
        judge(grid)
    with Watched(files) as grid:
        grid.gone = {4}
        assert judge(grid)[0] > 0


def judging(name: str, of: str, registry: RunRegistry, study: Study, document: bytes) -> RunFolder:
    return registry.create(study, document, seed=5, name=name, wants="evaluation", of=of)


@pytest.mark.slow
def test_a_run_of_the_registry_judges_anothers_model_again(tmp_path: Path) -> None:
    """In a private study with secure sums: nothing is trained, charged or changed for it."""
    study = private_study(evaluation={"replicates": 20, "fewest": 1, "subgroups": {"age": BANDS}})
    sites = sites_of(tmp_path / "s", study)
    registry = RunRegistry(tmp_path / "runs")
    registry.set_roster((sites.files["a"].parent.parent / "roster.json").read_bytes())
    document = sign_study(study, sites.coordinator)
    first = registry.create(study, document, seed=5, name="first")
    again = judging("again", "first", registry, study, document)
    early = judging("early", "again", registry, study, document)
    lost = judging("lost", "nothing", registry, study, document)

    with Watched(list(sites.files.values())) as grid:
        make_app(lambda _: None)(grid, context(folder=str(first.folder)))
        charged, results = sites.charges(), (first.folder / EVALUATION).read_bytes()
        before = len(grid.steps)
        make_app(lambda _: None)(grid, context(folder=str(again.folder)))
        for run in (early, lost):
            with pytest.raises(DataError, match="finished"):
                make_app(lambda _: None)(grid, context(folder=str(run.folder)))

    assert {step.kind for step in grid.steps[before:]} == {
        *("offer", "advertise", "evaluate", "unmask")
    }
    assert sites.charges() == charged
    assert (first.folder / EVALUATION).read_bytes() == results
    assert again.record.state == "finished"
    assert {early.record.state, lost.record.state} == {"failed"}
    assert not (again.folder / "model.safetensors").exists()
    one, other = (
        Evaluated.model_validate_json((run.folder / EVALUATION).read_bytes())
        for run in (first, again)
    )
    values = [
        [(row.patients, {k: f.value for k, f in row.figures.items()}) for row in found.cells]
        for found in (one, other)
    ]
    assert values[0] == values[1]
    assert one.threshold == other.threshold
    assert one.everybody.figures["loss"].low != other.everybody.figures["loss"].low  # drawn anew
