"""The registry's folders, and runs of the ServerApp from one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fedward.privacy.identity import Identity
from fedward.privacy.roster import Roster, sign_roster
from fedward.privacy.signed_study import sign_study
from fedward.server.app import make_app
from fedward.server.events import Event, RoundFinished, RoundStarted
from fedward.server.run_registry import RunFolder, RunRecord, RunRegistry, State, Wanted
from fedward.study.errors import DataError, FedwardError, OptionError
from fedward.study.study import Study
from tests.secure_sites import PRIVATE, Sites
from tests.server.conftest import context
from tests.server.cut_off import Killed, Moment, Watched, private_study, sites_of

DOCUMENT = b'{"signed": true}'


def submitted(folder: Path, study: Study, sites: Sites, wants: Wanted = "model") -> RunFolder:
    registry = RunRegistry(folder / "runs")
    registry.set_roster((sites.files["a"].parent.parent / "roster.json").read_bytes())
    document = sign_study(study, sites.coordinator)
    return registry.create(study, document, seed=5, name="run", wants=wants)


def started(run: RunFolder, grid: Watched, listen: Any = lambda _: None) -> None:  # noqa: ANN401
    make_app(listen)(grid, context(folder=str(run.folder)))


def state(run: RunFolder) -> str:
    return run.record.state


def lines(run: RunFolder) -> list[dict[str, Any]]:
    text = (run.folder / "events.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_is_created_found_and_listed(tmp_path: Path) -> None:
    registry = RunRegistry(tmp_path / "runs")
    assert registry.list() == []
    study = private_study()
    first = registry.create(study, DOCUMENT, seed=7, roster=3)
    second = registry.create(study, DOCUMENT)

    assert first.record == registry.get(first.record.name).record
    assert [r.name for r in registry.list()] == [first.record.name, second.record.name]
    assert (first.record.seed, first.record.roster) == (7, 3)
    assert (first.record.state, first.record.title) == ("submitted", "tiny")
    assert first.study == study
    assert first.document == DOCUMENT
    assert first.folder.stat().st_mode & 0o077 == 0
    assert first.mark("paused", "why").reason == "why"
    assert registry.get(first.record.name).record.state == "paused"


@pytest.mark.parametrize("name", ["..", "a/b", "", "-x", "a" * 101, "none", "a\n"])
def test_no_other_folder_is_a_run(name: str, tmp_path: Path) -> None:
    registry = RunRegistry(tmp_path / "runs")
    registry.create(private_study(), DOCUMENT, name="run")
    with pytest.raises(OptionError):
        registry.get(name)
    with pytest.raises(OptionError, match="there is a run run"):
        registry.create(private_study(), DOCUMENT, name="run")


def test_another_study_in_its_place_is_refused(tmp_path: Path) -> None:
    run = RunRegistry(tmp_path / "runs").create(private_study(), DOCUMENT, name="run")
    other = RunRegistry(tmp_path / "o").create(private_study(training={"rounds": 9}), DOCUMENT)
    (run.folder / "study.toml").write_bytes((other.folder / "study.toml").read_bytes())
    with pytest.raises(DataError, match="not the study that was submitted"):
        _ = run.study
    (run.folder / "run.json").write_text("{}")
    with pytest.raises(DataError, match=r"run\.json"):
        _ = run.record


def test_the_app_runs_a_folder_to_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "flwr")  # a command may have quieted it before
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites)

    def listen(event: Event) -> None:
        logging.getLogger("flwr").warning("said by Flower")
        logging.getLogger("any").warning("said by another")

    with Watched(list(sites.files.values())) as grid:
        started(run, grid, listen)
    logging.getLogger("flwr").warning("said afterwards")

    assert state(run) == "finished"
    assert (run.folder / "model.safetensors").exists()
    assert json.loads((run.folder / "federation.json").read_text())["study"] == study.digest()
    said = run.log.read_text("utf-8")
    assert "said by Flower" in said
    assert "said by another" in said
    assert "said afterwards" not in said
    history = json.loads((run.folder / "history.json").read_text())["rounds"]
    assert [each["round"] for each in history] == [1, 2, 3]
    kinds = [line["event"] for line in lines(run)]
    assert kinds.count("RoundFinished") == 3
    assert kinds[-2:] == ["Outcome", "State"]
    assert all("at" in line and "model" not in line for line in lines(run))
    steps = len(grid.steps)
    started(run, grid)  # a finished run is left as it is
    assert len(grid.steps) == steps


@pytest.mark.parametrize(
    "moment",
    [
        lambda s, n: n == 1,
        lambda s, n: s[:3] == ("pulled", "unmask", 2) and s.node == 2,
        lambda s, n: s[:3] == ("push", "evaluate", 6),
    ],
)
def test_a_killed_run_goes_on_in_its_folder(moment: Moment, tmp_path: Path) -> None:
    study = private_study()
    sites, others = sites_of(tmp_path / "s", study), sites_of(tmp_path / "o", study)
    run = submitted(tmp_path, study, sites)
    other = submitted(tmp_path / "other", study, others)
    files = list(sites.files.values())
    with Watched(files, moment) as grid, pytest.raises(Killed):
        started(run, grid)
    assert state(run) in {"waiting", "running"}
    with (run.folder / "events.jsonl").open("ab") as events:
        events.write(b'{"cut off')
    with Watched(files) as grid:
        started(run, grid)
    with Watched(list(others.files.values())) as grid:
        started(other, grid)

    assert state(run) == "finished"
    ours, theirs = (load_file(each.folder / "model.safetensors") for each in (run, other))
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
    history = json.loads((run.folder / "history.json").read_text())["rounds"]
    assert [each["round"] for each in history] == [1, 2, 3]
    text = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    assert text.count('{"cut off') == 1
    assert all(json.loads(line) for line in text if line != '{"cut off')


def test_a_run_that_wants_statistics_trains_nothing(tmp_path: Path) -> None:
    """Killed while the hospitals' sums come in, it is taken up, and charges nobody twice."""
    paid = PRIVATE | {"statistics_noise_multiplier": 0.7}
    asked = {"features": {"age": {"span": [-2.0, 4.0]}, "size": {}}, "statistics": {"fewest": 5}}
    study = private_study(data=asked, privacy=paid)
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites, "statistics")
    files = list(sites.files.values())

    with Watched(files, lambda s, n: s.kind == "measure" and n > 2) as grid, pytest.raises(Killed):
        started(run, grid)
    with Watched(files) as grid:
        started(run, grid)

    assert state(run) == "finished"
    assert {step.kind for step in grid.steps} & {"train", "evaluate"} == set()
    assert not (run.folder / "model.safetensors").exists()
    found = json.loads((run.folder / "statistics.json").read_text())
    assert found["fewest"] == 5
    assert list(found["numbers"]) == ["age"]
    for name in sites.names:
        assert len(sites[name].ledger.entries()) == 1


def test_too_few_patients_for_a_table_fail_the_run(tmp_path: Path) -> None:
    asked = {"features": {"age": {"span": [-2.0, 4.0]}, "size": {}}, "statistics": {"fewest": 999}}
    study = private_study(data=asked, privacy={"mode": "off"})
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites, "statistics")

    with (
        Watched(list(sites.files.values())) as grid,
        pytest.raises(FedwardError, match="fewer than 999"),
    ):
        started(run, grid)
    assert state(run) == "failed"
    assert not (run.folder / "statistics.json").exists()


def test_a_file_stops_a_run_and_resuming_finishes_it(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites)
    files = list(sites.files.values())

    def listen(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.round == 2:
            run.ask_to_stop()

    with Watched(files) as grid:
        started(run, grid, listen)
        assert state(run) == "stopped"
        assert not run.stop_asked
        assert not [s for s in grid.steps if s.round == 3]
        started(run, grid)
    assert state(run) == "finished"


def test_too_few_hospitals_pause_a_run_with_the_reason(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites)
    with Watched(list(sites.files.values())) as grid:
        grid.gone = {1, 2}
        started(run, grid)
        assert state(run) == "paused"
        assert "2 of 4 hospitals are ready" in run.record.reason
        grid.gone = set()
        started(run, grid)
    assert state(run) == "finished"


@pytest.mark.parametrize("ends", ["finished", "paused", "stopped", "failed", "waiting"])
def test_the_last_word_is_said_before_the_run_is_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The next process waits for the run, and would be said to have ended as this one did."""
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites, "statistics" if ends == "failed" else "model")
    said: list[tuple[str, bool]] = []
    mark = RunFolder.mark

    def heard(self: RunFolder, word: State, reason: str = "") -> RunRecord:
        said.append((word, self.is_taken))
        return mark(self, word, reason)

    def listen(event: Event) -> None:
        if isinstance(event, RoundStarted) and ends == "stopped":
            run.ask_to_stop()
        if isinstance(event, RoundStarted) and ends == "waiting":
            raise RuntimeError

    monkeypatch.setattr(RunFolder, "mark", heard)
    with (
        Watched(list(sites.files.values())) as grid,
        pytest.raises((FedwardError, RuntimeError))
        if ends in {"failed", "waiting"}
        else nullcontext(),
    ):
        grid.gone = {1, 2} if ends == "paused" else set()
        started(run, grid, listen)

    assert said[-1] == (ends, True)
    assert all(taken for _, taken in said)
    assert not run.is_taken


@pytest.mark.parametrize(
    ("said", "ends"), [("stopped", "stopped"), ("finished", "finished"), ("paused", "finished")]
)
def test_who_waited_for_a_run_heeds_how_the_process_before_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: State, ends: str
) -> None:
    """A person's stop holds; that the process before could not go on does not."""
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites)
    taken = RunFolder.taken

    @contextmanager
    def after_another(self: RunFolder) -> Iterator[None]:
        self.mark(said)
        with taken(self):
            yield

    monkeypatch.setattr(RunFolder, "taken", after_another)
    with Watched(list(sites.files.values())) as grid:
        started(run, grid)
        assert bool(grid.steps) == (said == "paused")
    assert state(run) == ends


def test_members_are_those_of_the_registry(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites)
    registry = RunRegistry(tmp_path / "runs")
    members = {
        name: Identity.load(path.with_name("identity.pem")).public
        for name, path in sites.files.items()
    }
    smaller = Roster(2, {name: key for name, key in members.items() if name != "d"})
    assert run.members().names == set("abcd")

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            registry.set_roster(sign_roster(smaller, sites.coordinator))

    with Watched(list(sites.files.values())) as grid:
        started(run, grid, listen)
    history = json.loads((run.folder / "history.json").read_text())["rounds"]
    assert [each["answered"] for each in history] == [4, 3, 3]


def test_a_run_that_cannot_go_on_failed_and_says_why(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    run = submitted(tmp_path, study, sites)
    (run.folder / "study.toml").unlink()
    with Watched([]) as grid, pytest.raises(FedwardError):
        started(run, grid)
    assert state(run) == "failed"
    assert "study.toml" in run.record.reason
    assert "Traceback" in run.log.read_text("utf-8")
    assert "study.toml" in run.log.read_text("utf-8")


def test_a_run_is_taken_as_long_as_its_process_holds_it(tmp_path: Path) -> None:
    run = RunRegistry(tmp_path / "runs").create(private_study(), DOCUMENT)
    found = [run.is_taken]
    with run.taken():
        found.append(run.is_taken)
    found.append(run.is_taken)
    assert found == [False, True, False]


def test_a_run_that_comes_further_has_more_exchanges(tmp_path: Path) -> None:
    run = RunRegistry(tmp_path / "runs").create(private_study(), DOCUMENT)
    assert run.exchanges == 0
    for name in ("after-000002", "after-000003", "new"):
        (run.checkpoint / name).mkdir(parents=True)
    assert run.exchanges == 3
