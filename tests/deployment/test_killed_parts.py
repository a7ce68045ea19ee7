"""kill -9 of each part at each stage of a run: it goes on, and nothing is charged twice.

A test kills one part four times in one private run: while adverts are asked for, while round 1
trains, while round 2 is unmasked, and after the last round's checkpoint, when the model is judged.
What a service manager starts again is started again; the rest must come back by itself.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from fedward.server.run_registry import RunFolder
from tests.deployment.at_work import ROUNDS, AtWork, at_work, three

pytestmark = pytest.mark.slow
WATCHED = "A"
"""The hospital that is killed, or whose log tells at which stage the run is."""

STAGES = ("query.advertise", "train round 1", "query.unmask round 2", "evaluate")
Kill = Callable[[AtWork], None]


@pytest.fixture(scope="module")
def consortium() -> Iterator[AtWork]:
    """One consortium for every test: each leaves it whole."""
    study = three("private", private=True)
    with at_work(study) as found:
        found.finished(found.train(study, "first"))
        yield found


def supervisor(consortium: AtWork) -> None:
    consortium.kill("aggregator")
    consortium.start("aggregator")


def supervisor_and_state(consortium: AtWork) -> None:
    """The server comes back on new state: its SuperLink has forgotten everything."""
    consortium.kill("aggregator")
    shutil.rmtree(consortium.hub / "state" / "superlink")
    consortium.start("aggregator")


def superlink(consortium: AtWork) -> None:
    consortium.program("aggregator", "flower-superlink").kill()


def executor(consortium: AtWork) -> None:
    """What starts a run's process; the SuperLink itself goes on, and does not miss it."""
    consortium.program("aggregator", "flower-superexec").kill()


def server_app(consortium: AtWork) -> None:
    consortium.program("aggregator", "flwr-serverapp").kill()


def daemon(consortium: AtWork) -> None:
    consortium.kill(WATCHED)
    consortium.start(WATCHED)


def worker(consortium: AtWork) -> None:
    consortium.program(WATCHED, "fedward.client.worker").kill()


@pytest.mark.parametrize(
    "kill",
    [supervisor, superlink, executor, server_app, daemon, worker],
    ids=lambda kill: kill.__name__,
)
def test_a_run_survives(consortium: AtWork, kill: Kill) -> None:
    run = _killed(consortium, kill.__name__, dict.fromkeys(STAGES, kill))
    _good(consortium, run)


def test_a_server_comes_back_on_new_state(consortium: AtWork) -> None:
    run = _killed(consortium, "new-state", {"query.unmask round 1": supervisor_and_state})
    _good(consortium, run)


def _killed(consortium: AtWork, name: str, kills: dict[str, Kill]) -> RunFolder:
    begun = len(consortium.said(WATCHED))
    # What a daemon was asked when it was killed is waited for until the deadline.
    deadline = {"deadline_seconds": 12.0} if daemon in kills.values() else {}
    study = three("private", private=True, participation=deadline)
    run = consortium.train(study, name)
    for stage, kill in kills.items():
        number = r" round \d+" if stage == "evaluate" else ""
        consortium.until_said(
            WATCHED, f"asked to {stage}{number} of run {name} ", after=begun, seconds=180
        )
        begun = len(consortium.said(WATCHED))
        kill(consortium)
    consortium.finished(run, seconds=240)
    return run


def _good(consortium: AtWork, run: RunFolder) -> None:
    """The run ended once, nothing was charged twice, and all books are good.

    What a hospital had worked out for a round is gone with a process that was killed amid it, and
    it never works twice for one round: that round is lost, as all three are needed for a sum.
    """
    finished = [event["round"] for event in consortium.events(run, "RoundFinished")]
    lost = [event["round"] for event in consortium.events(run, "RoundLost")]
    assert sorted({*finished, *lost}) == list(range(1, ROUNDS + 1))
    assert lost in ([], [1])
    assert len(consortium.events(run, "Outcome")) == 1
    for name in consortium.names:
        charged = Counter(
            entry.charge.round
            for entry in consortium.charges(name)
            if entry.charge.run == run.record.name
        )
        assert set(finished) <= set(charged) <= set(range(1, ROUNDS + 1))
        assert max(charged.values()) == 1, charged
        assert consortium.audited(name)
    consortium.no_traceback()
