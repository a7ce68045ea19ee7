"""A real run's model from candidate to retired: in registry, report and exported file."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedward.clinic.finished import read_finished
from fedward.clinic.provenance import provenance_of
from fedward.clinic.report import write_report
from fedward.privacy.model_log import LOG, BrokenModelLog
from fedward.privacy.signed_study import sign_study
from fedward.server.app import make_app
from fedward.server.model_registry import MODEL, ModelRegistry
from fedward.server.run_registry import RunFolder, RunRegistry
from fedward.study.errors import DataError, OptionError
from tests.secure_sites import Sites
from tests.server.conftest import context
from tests.server.cut_off import Watched, private_study, sites_of

WHO = {"by": "Dr Ada Chen", "reason": "good on our own records"}


def started(run: RunFolder, sites: Sites) -> None:
    with Watched(list(sites.files.values())) as grid:
        make_app(lambda _: None)(grid, context(folder=str(run.folder)))


def submitted(folder: Path) -> tuple[RunFolder, Sites]:
    study = private_study()
    sites = sites_of(folder / "s", study)
    registry = RunRegistry(folder / "runs")
    registry.set_roster((sites.files["a"].parent.parent / "roster.json").read_bytes())
    return registry.create(study, sign_study(study, sites.coordinator), name="run"), sites


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose one run is finished."""
    folder = tmp_path_factory.mktemp("registry")
    run, sites = submitted(folder)
    assert ModelRegistry(folder / "runs").models() == []
    started(run, sites)
    assert run.record.state == "finished"
    return folder / "runs"


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def stage(runs: Path) -> str:
    return ModelRegistry(runs).models()[0].now.stage


def test_a_finished_run_s_model_is_a_candidate_and_people_decide(runs: Path) -> None:
    registry = ModelRegistry(runs)
    (found,) = registry.models()
    assert (found.now.run, found.now.stage, found.now.by, found.fits) == (
        "run",
        "candidate",
        "",
        True,
    )
    assert found.now.study == RunRegistry(runs).get("run").record.study

    registry.approve("run", **WHO)
    assert stage(runs) == "approved"
    registry.retire("run", **WHO)
    assert [each.stage for each in registry.history("run")] == ["candidate", "approved", "retired"]
    with pytest.raises(OptionError, match="no model of other"):
        registry.history("other")


@pytest.mark.parametrize("gone", [True, False])
def test_a_model_that_was_changed_is_not_approved(runs: Path, *, gone: bool) -> None:
    path = runs / "run" / MODEL
    path.write_bytes(path.read_bytes() + b"\0")
    if gone:
        path.unlink()
    registry = ModelRegistry(runs)

    assert not registry.models()[0].fits
    with pytest.raises(DataError, match="is not the one that the run finished with"):
        registry.approve("run", **WHO)
    assert stage(runs) == "candidate"
    registry.retire("run", **WHO)  # the safe direction stays open
    assert stage(runs) == "retired"


def test_a_model_put_in_another_s_place_is_not_reported_or_exported(
    runs: Path, tmp_path: Path
) -> None:
    """Every byte is that of a model, and it is not this run's."""
    path = runs / "run" / MODEL
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last bit of a weight
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not the one that the run finished with"):
        write_report(runs / "run", tmp_path / "out")
    with pytest.raises(DataError, match="is not the one that the run finished with"):
        provenance_of(read_finished(runs / "run"))
    own = read_finished(runs / "run", model=path)
    assert provenance_of(own).stage is None  # a hospital's own model is nobody's candidate


def test_report_card_and_exported_model_tell_the_stage(runs: Path, tmp_path: Path) -> None:
    ModelRegistry(runs).approve("run", by="Dr <b>Ada</b>", reason="*good* & well")

    written = write_report(runs / "run", tmp_path / "out")
    page, card = written.report.read_text("utf-8"), written.card.read_text("utf-8")
    assert "approved by Dr &lt;b&gt;Ada&lt;/b&gt; on" in page
    assert "approved by Dr &lt;b&gt;Ada&lt;/b&gt; on" in card
    assert r"\*good\*" in card
    assert provenance_of(read_finished(runs / "run")).stage == "approved"

    alone = Path(shutil.copytree(runs / "run", tmp_path / "elsewhere" / "run"))
    assert provenance_of(read_finished(alone)).stage is None
    assert "in the registry" not in write_report(alone, tmp_path / "two").report.read_text("utf-8")


def test_a_changed_log_stops_everything_that_would_rely_on_it(runs: Path, tmp_path: Path) -> None:
    ModelRegistry(runs).retire("run", **WHO)
    with closing(sqlite3.connect(runs / LOG)) as db, db:
        db.execute("UPDATE change SET stage = 'approved' WHERE stage = 'retired'")
    registry = ModelRegistry(runs)
    for attempt in (
        registry.models,
        lambda: registry.history("run"),
        lambda: registry.approve("run", **WHO),
        lambda: registry.retire("run", **WHO),
        lambda: write_report(runs / "run", tmp_path / "out"),
        lambda: provenance_of(read_finished(runs / "run")),
    ):
        with pytest.raises(BrokenModelLog, match="row 2 "):
            attempt()
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_not_finished_is_not_approved(runs: Path) -> None:
    RunRegistry(runs).get("run").mark("failed", "for this test")
    with pytest.raises(OptionError, match="not finished"):
        ModelRegistry(runs).approve("run", **WHO)


def test_with_a_broken_log_a_run_pauses_and_finishes_when_it_is_mended(tmp_path: Path) -> None:
    run, sites = submitted(tmp_path)
    log = run.folder.parent / LOG
    log.write_bytes(b"no SQLite" * 100)
    started(run, sites)
    record = run.record
    assert record.state == "paused"
    assert "log of models" in record.reason

    log.unlink()
    started(run, sites)
    assert run.record.state == "finished"
    assert stage(run.folder.parent) == "candidate"


@pytest.mark.parametrize("name", ["models.sqlite", "models.sqlite.head", "roster.json"])
def test_no_run_takes_the_place_of_the_registry_s_own_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no possible name"):
        RunRegistry(tmp_path / "runs").create(private_study(), b"{}", name=name)
