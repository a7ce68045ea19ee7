"""A simulation's subgroups and intervals: of all hospitals, and the same when made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.client.app import open_site
from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.clinic.finished import read_finished
from fedward.clinic.report import REPORT, write_report
from fedward.models.registry import settled
from fedward.privacy.small_cells import Hidden
from fedward.server.evaluated import EVALUATION, Evaluated
from fedward.simulation.evaluation import with_table
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import DataError, FedwardError, OptionError, StudyError
from fedward.study.study import Study
from tests.clinic.test_report import Read
from tests.simulation.conftest import study_of, write_table

GROUPS: dict[str, Any] = {
    "ward": {"column": "ward", "values": ["north", "south", "west"]},
    "size": {"column": "size", "edges": [0.0, 3.5]},
}
TABLE: dict[str, Any] = {"replicates": 60, "fewest": 5, "subgroups": GROUPS}
PRIVATE: dict[str, Any] = {
    **{"mode": "local", "noise_multiplier": 1.0, "delta": 1e-3},
    **{"sampling_rate": 0.5, "accountant": "rdp"},
}


def study_with(**tables: dict[str, Any]) -> Study:
    given: dict[str, dict[str, Any]] = {
        "evaluation": TABLE,
        "task": {"threshold": "max_accuracy"},
        "simulation": {"split": "iid", "source": {"patient": "patient"}},
        **tables,
    }
    return study_of(**given)


def run_of(folder: Path, study: Study, *, baselines: bool = False) -> Path:
    data = write_table(folder / "records.csv", range(300))
    options = Options(out=folder / "run", data=data, seed=4, workers=1, baselines=baselines)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    return folder / "run"


def told(run: Path) -> Evaluated:
    return Evaluated.model_validate_json((run / EVALUATION).read_bytes())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 300 records of 150 patients at three hospitals, with secure sums."""
    return run_of(tmp_path_factory.mktemp("evaluated"), study_with(), baselines=True)


def files_of(run: Path) -> Mapping[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()
    }


def test_everybody_is_judged_as_in_result_json(run: Path) -> None:
    found, result = told(run), json.loads((run / "result.json").read_text("utf-8"))
    federated = result["metrics"]["federated"]

    assert result["failures"] == []
    assert set(result["metrics"]["local"]) == {"A", "B", "C"}
    assert found.study == result["study"]["digest"]
    assert found.threshold == federated["threshold"]
    for name, figure in found.everybody.figures.items():
        assert figure.value == federated[name]
        if name == "calibration_error":
            continue
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.high
    assert found.everybody.records == federated["records"]


def test_subgroups_are_judged_as_all_their_records_pooled(run: Path) -> None:
    found, finished = told(run), read_finished(run)
    rows = {row.cell: row for row in found.cells}
    parts = [
        open_site(file).load(finished.study.digest()).parts["test"]
        for file in sorted((run / "hospitals").glob("*/hospital.toml"))
    ]
    for place, ward in enumerate(GROUPS["ward"]["values"]):
        pooled, patients = np.zeros(finished.task.size), 0
        for part in parts:
            assert part.cells is not None
            mine = torch.from_numpy(part.cells[:, 1] == place)
            own = Records(part.whole[mine], part.labels[mine], part.patients[mine])
            pooled += metric_sums(finished.model, own, finished.task)
            patients += len(own.patients.unique())
        metrics = finished.task.metrics(pooled, found.threshold)
        assert rows[ward].patients == patients
        for name, figure in rows[ward].figures.items():
            assert figure.value == pytest.approx(metrics[name], abs=1e-4)


def test_a_small_subgroup_is_hidden(run: Path) -> None:
    rows = {row.cell: row for row in told(run).cells}

    few = rows["3.5 or more"]
    assert (few.patients, few.records, few.figures) == (Hidden.SMALL, None, {})
    assert sum(row.figures == {} for row in rows.values()) >= 2  # and another one with it


def test_made_again_it_is_the_same_and_the_run_stays_as_it_was(run: Path) -> None:
    before = files_of(run)
    done = CliRunner().invoke(app, ["evaluate", str(run)])

    assert done.exit_code == 0, done.output
    assert files_of(run) == before
    assert "everybody" in done.output
    assert "<5" in done.output


def test_another_table_is_for_researchers(run: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "table.toml", tmp_path / "found.json"
    file.write_text(
        "[evaluation]\nreplicates = 0\nfewest = 1\n"
        'subgroups = { kind = { column = "diagnosis", values = ["malignant"] } }\n',
        "utf-8",
    )
    before = files_of(run)
    done = CliRunner().invoke(app, ["evaluate", str(run), "--table", str(file), "--out", str(out)])

    assert done.exit_code == 0, done.output
    assert files_of(run) == before
    found = Evaluated.model_validate_json(out.read_bytes())
    (sick,) = found.cells
    assert (sick.subgroup, sick.cell) == ("kind", "malignant")
    assert sick.figures["auc"].value is None  # only one class is there
    assert sick.figures["sensitivity"].value == found.everybody.figures["sensitivity"].value
    assert sick.figures["sensitivity"].low is None
    assert found.everybody.figures["auc"].value == told(run).everybody.figures["auc"].value


@pytest.mark.parametrize(
    "out", [[], ["--out", f"{{run}}/../run/{EVALUATION}"]], ids=["none", "its"]
)
def test_a_table_that_nobody_agreed_on_never_replaces_the_runs(
    out: list[str], run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "table.toml"
    file.write_text("[evaluation]\nreplicates = 0\n", "utf-8")
    before = files_of(run)
    given = [part.format(run=run) for part in out]
    done = CliRunner().invoke(app, ["evaluate", str(run), "--table", str(file), *given])

    assert isinstance(done.exception, OptionError)
    assert done.exception.exit_code == 2
    assert "--out" in done.exception.line()
    assert files_of(run) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[evaluation.subgroups]\nx = { column = "nowhere", values = [1] }', "no column 'nowhere'"),
        ('[evaluation.subgroups]\nx = { column = "ward", edges = [1] }', "is no number"),
        ("[evaluation]\nreplicates = 3", "evaluation"),
        ("[other]\n", "no table"),
        ("[", "TOML"),
    ],
)
def test_a_table_that_does_not_fit_is_told_in_a_line(
    text: str, words: str, run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "table.toml"
    file.write_text(text, "utf-8")
    done = CliRunner().invoke(
        app, ["evaluate", str(run), "--table", str(file), "--out", str(tmp_path / "found.json")]
    )

    assert isinstance(done.exception, FedwardError)
    assert words in done.exception.line()
    assert "\n" not in done.exception.line()
    assert not (tmp_path / "found.json").exists()


def test_plain_sums_come_to_the_same(run: Path, tmp_path: Path) -> None:
    plain = told(run_of(tmp_path, study_with(aggregation={"secure": False})))
    secure = told(run)

    rows = [(found.everybody, *found.cells) for found in (plain, secure)]
    for one, other in zip(*rows, strict=True):
        assert (one.patients, one.records) == (other.patients, other.records)
        for name, figure in one.figures.items():
            again = other.figures[name]
            assert (figure.value, figure.low, figure.high) == pytest.approx(
                (again.value, again.low, again.high), abs=1e-3
            )


OWN: list[dict[str, Any]] = [
    {"strategy": "ditto", "proximal_lambda": 0.1},
    {"strategy": "fedper", "head_layers": 1},
    {"strategy": "fedmedian", "secure": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("terms", OWN, ids=[terms["strategy"] for terms in OWN])
def test_whatever_hospitals_keep_the_model_of_result_json_is_judged(
    terms: dict[str, Any], tmp_path: Path
) -> None:
    study = study_with(aggregation=terms)
    out = run_of(tmp_path, study)
    federated = json.loads((out / "result.json").read_text("utf-8"))["metrics"]["federated"]
    found = told(out)

    assert {name: f.value for name, f in found.everybody.figures.items()} == {
        name: federated[name] for name in found.everybody.figures
    }
    low, high = found.everybody.figures["auc"].low, found.everybody.figures["auc"].high
    assert low is not None
    assert high is not None
    assert low <= federated["auc"] <= high
    done = CliRunner().invoke(app, ["evaluate", str(out), "--out", str(tmp_path / "again.json")])
    assert (done.exit_code == 0) == (terms["strategy"] == "fedmedian"), done.output


def test_a_column_that_a_hospital_lacks_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    groups = {"sex": {"column": "sex", "values": ["f", "m"]}}
    with pytest.raises(DataError, match="no column 'sex'"):
        run_of(tmp_path, study_with(evaluation={"subgroups": groups}))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_private_study_is_evaluated_and_charged_for_training_alone(tmp_path: Path) -> None:
    spent = []
    for name, table in (("with", TABLE), ("without", None)):
        study = study_with(privacy=PRIVATE)
        if table is None:
            study = study.model_copy(update={"evaluation": None})
        out = run_of(tmp_path / name, study)
        result = json.loads((out / "result.json").read_text("utf-8"))
        spent.append({key: entry["epsilon"] for key, entry in result["privacy"].items()})
        assert (out / EVALUATION).exists() == (table is not None)
    assert spent[0] == spent[1]


def test_where_evaluation_has_noise_there_is_no_way_around_it(tmp_path: Path) -> None:
    noised = {**PRIVATE, "evaluation_noise_multiplier": 1.0}
    study = settled(study_of(privacy=noised))
    with pytest.raises(StudyError, match="without the noise"):
        with_table(study, None)


def test_the_report_shows_the_table(run: Path, tmp_path: Path) -> None:
    found = told(run)
    write_report(run, tmp_path)
    page = Read((tmp_path / REPORT).read_text("utf-8"))
    rows = page.tables["subgroups"]

    assert list(rows) == [
        "everybody",
        *(f"{row.subgroup}: {row.cell}" for row in found.cells),
    ]
    for name, row in zip(rows, (found.everybody, *found.cells), strict=True):
        assert [float(text) for text in rows[name]] == [f.value for f in row.figures.values()]
    auc = found.everybody.figures["auc"]
    assert auc.value is not None
    assert f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" in page.words


def test_a_report_without_the_table_says_so_where_the_study_asks_for_it(
    run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("hospitals", EVALUATION))
    written = write_report(copy, tmp_path / "out")
    assert any("evaluation.json" in line for line in written.missing)
    document = json.loads((run / EVALUATION).read_text("utf-8"))
    (copy / EVALUATION).write_text(json.dumps({**document, "study": "0" * 64}), "utf-8")
    with pytest.raises(DataError, match="another study"):
        write_report(copy, tmp_path / "out")
    (copy / EVALUATION).write_text("{", "utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        write_report(copy, tmp_path / "out")
