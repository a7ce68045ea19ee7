"""What is expected of a model: sums of a run, small cells hidden, and nothing that is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fedward.clinic.told import Told, read_told
from fedward.clinic.watching.cells import SCORE_BINS
from fedward.clinic.watching.reference import read_statistics, reference_of
from fedward.models.registry import settled
from fedward.models.task import task_of
from fedward.privacy.small_cells import Statistics, shown_for
from fedward.privacy.statistics_table import table_of
from fedward.server.events import Outcome
from fedward.server.run_folder import write_results
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study
from tests.simulation.conftest import study_of

FEATURES: dict[str, Any] = {
    "age": {"span": [-2.0, 4.0]},
    "size": {"span": [-2.0, 4.0], "absent": -9.0},
}
LOCAL: dict[str, Any] = {
    **{"mode": "local", "epsilon": 5.0, "delta": 1e-3, "sampling_rate": 0.5, "accountant": "rdp"},
    **{"statistics_noise_multiplier": 2.0, "evaluation_noise_multiplier": 3.0},
}


def the_study(**tables: Any) -> Study:  # noqa: ANN401
    data = {"features": FEATURES, "statistics": {"bins": 4, "fewest": 5}}
    return settled(study_of(data=data, **tables))


def told_of(study: Study, folder: Path, sums: dict[str, np.ndarray]) -> Told:
    """A run's folder, as an aggregator leaves it."""
    task, size = task_of(study), 3 * 4 + 4 + 4 * 2 + 2
    test = task.metrics(sums.get("test", np.zeros(task.size)))
    outcome = Outcome(
        model=np.zeros(size, np.float32),
        test=test,
        validation=None,
        threshold=0.5,
        part="validation",
        sums=sums,  # type: ignore[arg-type]
    )
    write_results(study, outcome, folder)
    tables = study.model_dump(mode="json", exclude_none=True)
    (folder / "study.toml").write_bytes(tomli_w.dumps(tables).encode())
    return read_told(folder)


def table(study: Study) -> Statistics:
    """40 patients; of `size` 8 are absent, and one cell is small."""
    moments = [0.0, 0.0, 0.0, 0.0, 8.0]
    sums = [40.0, *moments, *(10, 10, 14, 6), *(2, 7, 16, 7), *(30, 10)]
    return shown_for(study, table_of(np.array(sums, float), study))


def judged(study: Study, scale: int = 1) -> np.ndarray:
    """60 records: 40 without and 20 with the finding, each in a bin of its group."""
    sums = np.zeros(task_of(study).size)
    sums[:6] = [60, 30, 35, 5, 6, 14]
    sums[6 + 300] = 40
    sums[6 + 1024 + 700] = 17
    sums[6 + 1024 + 70] = 3
    return sums * scale


def test_cells_are_those_of_the_table_and_of_the_sums(tmp_path: Path) -> None:
    study = the_study()
    told = told_of(study, tmp_path / "run", {"test": judged(study), "validation": judged(study)})
    found = {(h.kind, h.name): h for h in reference_of(told, table(study)).histograms}

    assert found["number", "age"].cells == (10, 10, 14, 6)
    assert found["number", "age"].hidden == 0
    size = found["number", "size"]
    assert size.cells == (8, None, None, 16, None)  # 2 is small, and the sevens are with it
    assert size.hidden == 16
    score = found["score", "malignant"]
    assert len(score.cells) == SCORE_BINS
    assert score.cells[300 // 64] == 80
    assert score.hidden + sum(cell or 0 for cell in score.cells) == 120


def test_a_small_score_cell_is_in_no_file(tmp_path: Path) -> None:
    study = the_study()
    told = told_of(study, tmp_path / "run", {"test": judged(study)})
    document = json.loads(reference_of(told, None).document())
    (score,) = document["histograms"]

    assert document["fewest"] == 5
    assert score["cells"][70 // 64] is None
    assert all(cell is None or cell >= 5 for cell in score["cells"])
    assert score["cells"].count(None) >= 2


def test_noise_travels_with_what_it_is_in(tmp_path: Path) -> None:
    study = the_study(privacy=LOCAL)
    sums = np.zeros(task_of(study).size)
    sums[:6] = [60, 30, 35, 5, 6, 14]
    sums[6 + 4], sums[6 + 16 + 11] = 40, 20
    told = told_of(study, tmp_path / "run", {"test": sums})
    found = {h.kind: h for h in reference_of(told, table(study)).histograms}

    assert found["number"].deviation == pytest.approx(2.0 * np.sqrt(2 + 2 + 1) * np.sqrt(3))
    assert found["score"].deviation == pytest.approx(3.0 * 2.0 * np.sqrt(2 * 3))


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    study, other = the_study(), the_study(training={"rounds": 9})
    told = told_of(study, tmp_path / "run", {"test": judged(study)})
    with pytest.raises(OptionError, match="another study's"):
        reference_of(told, table(other))
    with pytest.raises(OptionError, match="does not say whose it is"):
        reference_of(told, table(study).model_copy(update={"study": None}))
    nothing = told_of(study, tmp_path / "nothing", {})
    with pytest.raises(OptionError, match="nothing is known"):
        reference_of(nothing, None)
    (tmp_path / "table.json").write_text('{"fewest": 3}')
    with pytest.raises(DataError, match="no table of statistics"):
        read_statistics(tmp_path / "table.json")
    (tmp_path / "table.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_statistics(tmp_path / "table.json")
