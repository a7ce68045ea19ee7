"""Subgroups and intervals of a real consortium: asked at a run's end, and again by a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedward.client.hospital import read_hospital, write_hospital
from fedward.server.evaluated import EVALUATION, Evaluated
from fedward.server.run_registry import RunFolder
from fedward.study.study import Study
from tests.deployment.at_work import ROUNDS, AtWork, at_work, three, until

pytestmark = pytest.mark.slow
LACKING = "C"
"""The hospital whose table has no column `band`."""

AGES = {"replicates": 40, "fewest": 3, "subgroups": {"age": {"column": "age", "edges": [0.5]}}}
BANDS = {**AGES, "subgroups": {"band": {"column": "band", "edges": [0.5]}}}


def study_with(name: str, table: dict[str, object]) -> Study:
    return three(name, private=True, evaluation=table, participation={"wait_seconds": 60.0})


def told(run: RunFolder) -> Evaluated:
    return Evaluated.model_validate_json((run.folder / EVALUATION).read_bytes())


def values(found: Evaluated) -> list[tuple[object, dict[str, float | None]]]:
    rows = (found.everybody, *found.cells)
    return [(row.patients, {k: f.value for k, f in row.figures.items()}) for row in rows]


def test_a_consortium_evaluates_and_is_asked_again() -> None:
    study = study_with("evaluated", AGES)

    def prepare(made: AtWork) -> None:
        for name in made.names:
            if name != LACKING:
                _calls(made.file(name), band="age")

    with at_work(study, prepare=prepare) as found:
        run = found.train(study, "first")
        found.finished(run)
        first, hub = told(run), found.hub_file
        assert first.everybody.figures["auc"].low is not None
        assert [row.cell for row in first.cells] == ["below 0.5", "0.5 or more"]
        shown = [row.patients for row in first.cells if isinstance(row.patients, int)]
        assert len(shown) == 2
        assert sum(shown) == first.everybody.patients
        said = found.fedward("aggregator", "evaluate", "first", "--aggregator", hub)
        assert "age: below 0.5" in said
        assert "40 replicates" in said
        page = found.fedward("report", run.folder, "--out", found.hub / "page")
        assert "evaluation.json" not in page
        assert "age: below 0.5" in (found.hub / "page" / "report.html").read_text("utf-8")

        before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
        command = ("aggregator", "evaluate", "first", "--again", "--name", "second")
        assert "submitted: second" in found.fedward(*command, "--aggregator", hub)
        second = RunFolder(run.folder.parent / "second")
        found.finished(second)
        assert values(told(second)) == values(first)
        assert told(second).threshold == first.threshold
        assert {p: p.read_bytes() for p in before} == before
        assert "has no finished model" in found.fedward(
            *("aggregator", "evaluate", "second", "--again", "--aggregator", hub), code=2
        )
        for name in found.names:  # judging is exact, and costs nothing: as without the table
            charged = [entry.charge.run for entry in found.charges(name)]
            assert charged == ["first"] * ROUNDS
            assert found.audited(name)
        found.no_traceback()

        bands = study_with("bands", BANDS)
        third = found.train(bands, "third")
        trouble = found.state(LACKING) / "trouble.log"
        until(lambda: trouble.exists() and "no column 'band'" in trouble.read_text("utf-8"))
        line = trouble.read_text("utf-8").splitlines()[-1]
        assert "columns found: age, size, diagnosis" in line
        assert third.record.state in {"submitted", "waiting", "running", "paused"}
        early = found.fedward("aggregator", "evaluate", "third", "--aggregator", hub, code=2)
        assert "there is no table of the run" in early
        for name in found.names:
            said = (found.state(name) / "trouble.log").read_text("utf-8")
            assert ("no column" in said) == (name == LACKING), said
        found.no_traceback()


def _calls(file: Path, **columns: str) -> None:
    """Write into a hospital's file what it calls a column of the study's."""
    hospital = read_hospital(file)
    data = hospital.data.model_copy(update={"columns_are": columns})
    write_hospital(hospital.model_copy(update={"data": data}), file)
