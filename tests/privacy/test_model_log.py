"""The log of an aggregator's models: its steps, two people at once, and whoever changes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from fedward.privacy.chain import chain_start, chained
from fedward.privacy.log_head import head_of, write_head
from fedward.privacy.model_log import LOG, BrokenModelLog, Change, ModelLog, digest_of, stage_of
from fedward.study.errors import DataError, OptionError

STUDY, MODEL, OTHER = "5" * 64, "a" * 64, "b" * 64
WHO = {"by": "Dr Ada Chen", "reason": "AUC 0.91 on our own records"}


@pytest.fixture
def log(tmp_path: Path) -> ModelLog:
    return ModelLog(tmp_path / LOG)


def filled(log: ModelLog) -> list[Change]:
    """Two models: one approved and retired, one a candidate."""
    log.enter("first", study=STUDY, model=MODEL)
    log.decide("first", "approved", model=MODEL, **WHO)
    log.enter("second", study=STUDY, model=OTHER)
    log.decide("first", "retired", model=None, **WHO)
    return log.changes()


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def test_a_model_goes_from_candidate_to_approved_to_retired(log: ModelLog) -> None:
    assert log.changes() == []
    assert log.last("first") is None

    changes = filled(log)

    stages = [(each.run, each.stage, each.by) for each in changes]
    assert stages == [
        ("first", "candidate", ""),
        ("first", "approved", "Dr Ada Chen"),
        ("second", "candidate", ""),
        ("first", "retired", "Dr Ada Chen"),
    ]
    assert [each.model for each in changes] == [MODEL, MODEL, OTHER, MODEL]
    assert log.last("first") == changes[-1]
    assert changes[0].sentence().startswith("candidate by the aggregator on 2")
    assert len({each.hash for each in changes}) == 4


def test_only_the_owner_can_read_the_log(log: ModelLog, tmp_path: Path) -> None:
    filled(log)
    assert (tmp_path / LOG).stat().st_mode & 0o077 == 0
    assert head_of(tmp_path / LOG).stat().st_mode & 0o077 == 0


def test_the_same_candidate_twice_is_one_row_and_a_new_one_takes_its_place(log: ModelLog) -> None:
    first = log.enter("run", study=STUDY, model=MODEL)
    assert log.enter("run", study=STUDY, model=MODEL) == first
    log.enter("run", study=STUDY, model=OTHER)
    with pytest.raises(DataError, match="is not the one"):
        log.decide("run", "approved", model=MODEL, **WHO)
    log.decide("run", "approved", model=OTHER, **WHO)
    assert log.enter("run", study=STUDY, model=OTHER).stage == "approved"
    with pytest.raises(OptionError, match="this one is another"):
        log.enter("run", study=STUDY, model=MODEL)
    assert len(log.changes()) == 3


def test_only_steps_forward_are_taken(log: ModelLog) -> None:
    with pytest.raises(OptionError, match="no model of run"):
        log.decide("run", "approved", model=MODEL, **WHO)
    log.enter("run", study=STUDY, model=MODEL)
    with pytest.raises(OptionError, match="cannot become candidate"):
        log.decide("run", "candidate", model=MODEL, **WHO)
    with pytest.raises(OptionError, match="no model of other"):
        log.decide("other", "retired", model=MODEL, **WHO)
    log.decide("run", "approved", model=MODEL, **WHO)
    with pytest.raises(OptionError, match=r"cannot become approved: .* approved by Dr Ada Chen"):
        log.decide("run", "approved", model=MODEL, **WHO)
    log.decide("run", "retired", model=None, **WHO)
    for stage in ("approved", "retired"):
        with pytest.raises(OptionError, match="retired by Dr Ada Chen"):
            log.decide("run", stage, model=MODEL, **WHO)
    assert len(log.changes()) == 3


@pytest.mark.parametrize("model", [None, OTHER, "", MODEL.upper()])
def test_another_model_than_the_run_s_is_never_approved(log: ModelLog, model: str | None) -> None:
    log.enter("run", study=STUDY, model=MODEL)
    with pytest.raises(DataError, match="is missing, or is not the one"):
        log.decide("run", "approved", model=model, **WHO)
    assert [each.stage for each in log.changes()] == ["candidate"]


@pytest.mark.parametrize(
    "who",
    [
        {"by": ""},
        {"by": " x"},
        {"by": "a\nb"},
        {"by": "x" * 101},
        {"by": "\ud800"},
        {"reason": ""},
        {"reason": "  "},
        {"reason": "a\x1b[2J"},
        {"reason": "x" * 501},
        {"reason": "\u202eno"},
    ],
)
def test_a_change_without_person_or_reason_is_refused(log: ModelLog, who: dict[str, str]) -> None:
    log.enter("run", study=STUDY, model=MODEL)
    with pytest.raises(OptionError, match=r"--by|--reason"):
        log.decide("run", "approved", model=MODEL, **(WHO | who))
    assert len(log.changes()) == 1


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE change SET by = 'Dr Bo' WHERE id = 2", 2),
        ("UPDATE change SET reason = 'none' WHERE id = 4", 4),
        ("UPDATE change SET model = run WHERE id = 1", 1),
        ("UPDATE change SET stage = 'approved' WHERE id = 3", 3),
        ("UPDATE change SET at = CAST(at AS BLOB) WHERE id = 2", 2),
        ("UPDATE change SET hash = (SELECT hash FROM change WHERE id = 1) WHERE id = 2", 2),
        ("DELETE FROM change WHERE id = 2", 2),
        ("DELETE FROM change WHERE id = 4", 4),
        ("DELETE FROM change WHERE id > 1", 2),
        ("DELETE FROM change", 1),
        ("UPDATE change SET id = 9 WHERE id = 4", 4),
        ("INSERT INTO change SELECT 5, run, study, model, stage, by, reason, at, hash"
         " FROM change WHERE id = 4", 5),
    ],
)  # fmt: skip
def test_a_changed_log_is_not_read_and_not_written(
    log: ModelLog, statement: str, row: int, tmp_path: Path
) -> None:
    filled(log)
    changed(tmp_path / LOG, statement)
    before = (tmp_path / LOG).read_bytes()
    attempts: list[Callable[[], object]] = [
        log.changes,
        lambda: log.enter("third", study=STUDY, model=MODEL),
        lambda: log.decide("second", "approved", model=OTHER, **WHO),
        lambda: log.decide("second", "retired", model=None, **WHO),
    ]
    for attempt in attempts:
        with pytest.raises(BrokenModelLog, match=f"row {row} "):
            attempt()
    assert (tmp_path / LOG).read_bytes() == before


def test_a_log_whose_head_or_whose_file_is_gone_is_refused(log: ModelLog, tmp_path: Path) -> None:
    filled(log)
    path, head = tmp_path / LOG, head_of(tmp_path / LOG)
    kept = head.read_bytes()
    for content in (None, b"{", b'{"hash":"0","lines":4}', b'{"hash":"0","lines":0}', b"[]"):
        head.unlink(missing_ok=True)
        if content is not None:
            head.write_bytes(content)
        with pytest.raises(BrokenModelLog):
            log.changes()
    head.write_bytes(kept)
    assert len(log.changes()) == 4
    whole = path.read_bytes()
    for left in (None, b""):
        path.unlink(missing_ok=True)
        if left is not None:
            path.write_bytes(left)
        for attempt in (log.changes, lambda: log.enter("x", study=STUDY, model=MODEL)):
            with pytest.raises(BrokenModelLog, match="row 1 "):
                attempt()
    path.write_bytes(b"no SQLite" * 100)
    with pytest.raises(DataError, match="cannot be used"):
        log.changes()
    path.write_bytes(whole)
    assert len(log.changes()) == 4


def test_a_chain_that_fits_and_takes_a_forbidden_step_is_refused(
    log: ModelLog, tmp_path: Path
) -> None:
    """Whoever writes the chain anew still cannot approve what was retired."""
    last = filled(log)[-1]
    row = ("first", STUDY, MODEL, "approved", "Mallory", "why not", last.at)
    found = chained(last.hash, row)
    with closing(sqlite3.connect(tmp_path / LOG)) as db, db:
        db.execute("INSERT INTO change VALUES (5, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, found))
    write_head(tmp_path / LOG, 5, found)
    with pytest.raises(BrokenModelLog, match=r"row 5 .* cannot become approved"):
        log.changes()


def test_a_log_begins_from_a_start_of_its_own() -> None:
    assert len({chain_start(name) for name in ("ledger", "audit-log", "models")}) == 3


def test_a_log_that_was_cut_off_while_it_was_made_is_none(log: ModelLog, tmp_path: Path) -> None:
    (tmp_path / LOG).touch()
    assert log.changes() == []
    log.enter("run", study=STUDY, model=MODEL)
    assert len(log.changes()) == 1


def test_the_head_may_be_behind_as_after_a_crash(log: ModelLog, tmp_path: Path) -> None:
    log.enter("run", study=STUDY, model=MODEL)
    kept = head_of(tmp_path / LOG).read_bytes()
    log.decide("run", "approved", model=MODEL, **WHO)
    head_of(tmp_path / LOG).write_bytes(kept)
    assert len(log.changes()) == 2
    log.decide("run", "retired", model=MODEL, **WHO)
    assert len(log.changes()) == 3


def test_of_people_who_decide_at_once_one_is_first_and_the_others_are_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / LOG
    ModelLog(path).enter("run", study=STUDY, model=MODEL)

    def approves(number: int) -> str:
        ModelLog(path).changes()
        try:
            ModelLog(path).decide(
                "run", "approved", by=f"Dr {number}", reason="because", model=MODEL
            )
        except OptionError as error:
            return error.what
        return ""

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(approves, range(8)))

    changes = ModelLog(path).changes()
    assert [each.stage for each in changes] == ["candidate", "approved"]
    assert said.count("") == 1
    assert changes[1].by == f"Dr {said.index('')}"
    assert all(f"approved by {changes[1].by}" in text for text in said if text)


def test_runs_that_end_at_once_are_all_entered(tmp_path: Path) -> None:
    path = tmp_path / LOG

    def enters(number: int) -> None:
        ModelLog(path).enter(f"run-{number}", study=STUDY, model=MODEL)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enters, range(8)))
    assert {each.run for each in ModelLog(path).changes()} == {f"run-{n}" for n in range(8)}


def test_the_stage_is_that_of_the_registry_around_a_folder(log: ModelLog, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert stage_of(run, MODEL) is None  # no log, and no run of a registry
    log.enter("run", study=STUDY, model=MODEL)
    assert stage_of(run, MODEL) is None  # a simulation's folder has no run.json
    (run / "run.json").write_text("{}")
    found = stage_of(run, MODEL)
    assert found is not None
    assert found.stage == "candidate"
    with pytest.raises(DataError, match="is not the one"):
        stage_of(run, OTHER)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{}")
    assert stage_of(tmp_path / "other", OTHER) is None
    changed(tmp_path / LOG, "DELETE FROM change")
    with pytest.raises(BrokenModelLog):
        stage_of(run, MODEL)
    (tmp_path / LOG).unlink()
    with pytest.raises(BrokenModelLog):
        stage_of(run, MODEL)


def test_a_model_s_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    assert digest_of(tmp_path / "none") is None
    (tmp_path / "model").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert digest_of(tmp_path / "model") == known
    with pytest.raises(DataError, match="cannot be read"):
        digest_of(tmp_path)
