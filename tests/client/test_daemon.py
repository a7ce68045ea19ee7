"""The daemon's loop, with a line and a worker that a test plays, and a clock that it turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import metadata_from_proto  # type: ignore[attr-defined]
from flwr.proto.message_pb2 import Metadata as MetadataProto

from fedward.client.daemon import Daemon
from fedward.client.fleet_errors import (
    CertificateRefused,
    ConnectionLost,
    FleetError,
    RunOver,
    ServerTrouble,
)
from fedward.client.happenings import (
    Answered,
    Asked,
    Connected,
    Disconnected,
    Dropped,
    Happening,
    Idle,
    Leaving,
    NotLogged,
    Refused,
    Stopped,
    WorkerRestarted,
)
from fedward.client.hospital import DaemonSettings
from fedward.client.letter import Letter, pack, reply_to, unpack
from fedward.client.worker import WorkerLost
from fedward.study.errors import AuditError

Step = Letter | FleetError | None


def letter(number: int = 1, content: RecordDict | None = None, *, lasts: float = 1e9) -> Letter:
    """A question as it comes from the server."""
    metadata = metadata_from_proto(
        MetadataProto(
            run_id=7,
            src_node_id=1,
            dst_node_id=2,
            group_id="",
            created_at=1.8e9,
            ttl=lasts,
            message_type="train",
        )
    )
    terms = ConfigRecord({"study": "s" * 64, "run": "run-1", "round": number})
    return pack(make_message(metadata, content or RecordDict({"terms": terms})))


class Play:
    """A line, a worker, a clock and a listener in one; the daemon stops when the play is over."""

    def __init__(self, steps: Iterable[Step], **settings: float) -> None:
        self.steps = list(steps)
        self.sendings: list[FleetError | None] = []
        self.working: list[Exception | None] = []
        self.address = "aggregator:443"
        self.now = 0.0
        self.slept: list[float] = []
        self.sent: list[Letter] = []
        self.allowed: list[float] = []
        self.happened: list[Happening] = []
        self.activated = self.started = 0
        self.daemon = Daemon(
            "north",
            self,
            self,
            DaemonSettings.model_validate(settings),
            [self.happened.append],
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def run(self) -> list[str]:
        """Play all steps, and give the names of what happened."""
        self.daemon.run()
        return [type(what).__name__ for what in self.happened]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def activate(self) -> int:
        self.activated += 1
        return 2

    def heartbeat(self) -> None: ...

    def receive(self) -> Letter | None:
        if not self.steps:
            self.daemon.stop(1e6)
            return None
        step = self.steps.pop(0)
        if isinstance(step, FleetError):
            raise step
        return step

    def send(self, letter: Letter, seconds: float = 0.0) -> None:
        error = self.sendings.pop(0) if self.sendings else None
        if error is not None:
            raise error
        self.sent.append(letter)

    def close(self) -> None: ...

    def start(self) -> None:
        self.started += 1

    def ask(self, letter: Letter, seconds: float) -> Letter:
        self.allowed.append(seconds)
        error = self.working.pop(0) if self.working else None
        if error is not None:
            raise error
        return reply_to(letter, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))

    def kill(self, why: str) -> None: ...

    def stop(self) -> None: ...


def test_a_question_is_answered_and_told_in_order() -> None:
    question = letter()
    play = Play([question])

    assert play.run() == ["Connected", "Asked", "Leaving", "Answered", "Stopped"]
    answered = play.happened[3]
    assert isinstance(answered, Answered)
    assert answered.asked == Asked("train", "s" * 64, "run-1", 1, question.size, question.digest)
    assert (answered.size, answered.digest) == (play.sent[0].size, play.sent[0].digest)
    reply = unpack(play.sent[0]).metadata
    assert (reply.reply_to_message_id, reply.run_id) == (question.digest, 7)
    assert (reply.src_node_id, reply.dst_node_id) == (2, 1)


def test_a_state_is_told_once_however_often_it_is_tried() -> None:
    lost, wrong = ConnectionLost("cut"), CertificateRefused("other")
    play = Play([lost, lost, ConnectionLost("refused"), wrong, wrong, None, lost, None])

    assert play.run() == [
        "Disconnected",
        "Disconnected",
        "Connected",
        "Disconnected",
        "Connected",
        "Stopped",
    ]
    told = [what.error for what in play.happened if isinstance(what, Disconnected)]
    assert told == ["ConnectionLost", "CertificateRefused", "ConnectionLost"]
    assert play.activated == 7


def test_tries_come_less_and_less_often_but_never_stop() -> None:
    play = Play([ConnectionLost("cut")] * 5_000, longest_pause_seconds=60)
    play.run()

    pauses = play.slept[:5_000]
    assert pauses[0] <= 0.25
    assert all(pause <= 60 for pause in pauses)
    assert all(pause >= 30 for pause in pauses[8:])
    assert len(set(pauses[8:])) > 4_000  # hospitals do not come back all at once


def test_after_a_connection_the_pauses_are_short_again() -> None:
    play = Play([*[ConnectionLost("cut")] * 20, None, ConnectionLost("cut")])
    play.run()

    assert play.slept[19] >= 30
    assert play.slept[21] <= 0.25


def test_a_line_that_only_seems_to_hold_does_not_shorten_the_pauses() -> None:
    play = Play([ConnectionLost("cut")] * 12)  # activate() succeeds each time
    play.run()

    assert play.slept[11] >= 30


def test_an_answer_is_kept_until_the_aggregator_has_it() -> None:
    play = Play([letter()])
    play.sendings = [ConnectionLost("cut"), ConnectionLost("cut"), None]

    assert play.run() == [
        "Connected",
        "Asked",
        "Leaving",
        "Disconnected",
        "Answered",
        "Connected",
        "Stopped",
    ]
    assert len(play.sent) == 1


@pytest.mark.parametrize("error", [ConnectionLost("cut"), ServerTrouble("HTTP 503")])
def test_an_answer_whose_time_is_over_is_not_sent_for_ever(error: FleetError) -> None:
    hopeless = letter(1, lasts=600)

    class Failing(Play):
        def send(self, letter: Letter, seconds: float = 0.0) -> None:
            assert self.now < 730
            if unpack(letter).metadata.reply_to_message_id == hopeless.digest:
                raise error
            super().send(letter, seconds)

    play = Failing([hopeless, letter(2)], longest_pause_seconds=60)

    names = play.run()
    assert names == [
        *("Connected", "Asked", "Leaving", "Disconnected", "Dropped", "Connected"),
        *("Asked", "Leaving", "Answered", "Stopped"),
    ]
    dropped = next(what for what in play.happened if isinstance(what, Dropped))
    assert dropped.asked is not None
    assert dropped.asked.round == 1
    assert "\n" not in dropped.reason
    assert 600 <= play.now < 730  # not before; at most a pause after, and one more
    assert [unpack(sent).metadata.reply_to_message_id for sent in play.sent] == [letter(2).digest]


def test_an_answer_that_nobody_wants_any_more_is_dropped() -> None:
    play = Play([letter(1), letter(2)])
    play.sendings = [RunOver("this run has ended")]

    assert play.run() == [
        "Connected",
        "Asked",
        "Leaving",
        "Dropped",
        "Asked",
        "Leaving",
        "Answered",
        "Stopped",
    ]


def test_a_question_whose_run_ended_on_the_way_is_dropped() -> None:
    play = Play([RunOver("this run has ended"), letter()])

    names = play.run()
    assert names == ["Dropped", "Connected", "Asked", "Leaving", "Answered", "Stopped"]
    dropped = play.happened[0]
    assert isinstance(dropped, Dropped)
    assert dropped.asked is None


def test_a_lost_worker_is_answered_for_and_replaced() -> None:
    play = Play([letter(1), letter(2)])
    play.working = [WorkerLost("the worker was ended by SIGSEGV: patient 17")]

    assert play.run() == [
        *("Connected", "Asked", "WorkerRestarted", "Leaving", "Refused"),
        *("Asked", "Leaving", "Answered", "Stopped"),
    ]
    refused = next(what for what in play.happened if isinstance(what, Refused))
    assert (refused.error, refused.what) == ("TrainingError", "could not finish")
    assert b"patient" not in b"".join(play.sent[0].objects.values())
    assert play.started == 2
    assert any(isinstance(what, WorkerRestarted) for what in play.happened)


def test_it_asks_less_often_the_longer_nothing_comes() -> None:
    play = Play([None] * 400, poll_seconds=0.05, idle_seconds=2)
    names = play.run()

    waits = play.slept[:400]
    assert waits[0] == pytest.approx(0.05)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(2)
    assert names.count("Idle") == 1


def test_a_question_wakes_it_up() -> None:
    play = Play([*[None] * 400, letter(), None, None])
    names = play.run()

    assert play.slept[-2] == pytest.approx(0.02)
    assert names == ["Connected", "Idle", "Asked", "Leaving", "Answered", "Stopped"]
    assert any(isinstance(what, Idle) for what in play.happened)


def test_it_does_not_ask_when_no_message_ever_came_so_early() -> None:
    """Many hospitals that ask in vain would slow down the round that they wait for."""
    waits = [None] * 10  # 0.2 s
    play = Play([*waits, letter(1), *waits, letter(2), *waits, letter(3), *[None] * 4])
    play.run()

    first, second, third = (play.slept[k] for k in (10, 20, 30))
    assert first == pytest.approx(0.02)  # one wait says nothing yet
    assert second == pytest.approx(0.15)  # of 0.2 s that both took
    assert third > 0.15
    assert play.slept[31] == pytest.approx(0.02)


def test_it_never_waits_long_for_a_message_that_comes_sooner_than_the_last_ones() -> None:
    waits = [None] * 300
    play = Play([*waits, letter(1), *waits, letter(2), None, None])
    play.run()

    assert play.slept[600] == pytest.approx(0.25)


def test_what_cannot_be_told_is_not_done() -> None:
    def full(happening: Happening) -> None:
        if isinstance(happening, Asked):
            raise AuditError("the audit log cannot be written")

    play = Play([letter()])
    listen: Callable[[Happening], None] = full
    play.daemon._listeners = (listen,)

    with pytest.raises(AuditError):
        play.daemon.run()
    assert play.sent == []


class Disk:
    """A listener whose disk is full so many times, before each thing that it must write."""

    def __init__(self, asked: int = 0, leaving: int = 0) -> None:
        self.full = {Asked: asked, Leaving: leaving}
        self.tried = 0

    def __call__(self, happening: Happening) -> None:
        if self.full.get(type(happening), 0):
            self.full[type(happening)] -= 1
            self.tried += 1
            raise NotLogged("the audit log cannot be used (No space left on device)")


def on_full_disk(steps: Iterable[Step], disk: Disk) -> Play:
    play = Play(steps)
    play.daemon._listeners = (disk, play.happened.append)
    return play


@pytest.mark.parametrize("disk", [Disk(asked=20), Disk(leaving=20)], ids=["asked", "leaving"])
def test_what_cannot_be_logged_waits_until_it_can(disk: Disk) -> None:
    play = on_full_disk([letter(1), letter(2)], disk)
    names = play.run()

    assert names.count("Held") == 1
    assert [name for name in names if name != "Held"] == [
        *("Connected", "Asked", "Leaving", "Answered"),
        *("Asked", "Leaving", "Answered", "Stopped"),
    ]
    assert disk.tried == 20
    assert play.slept[0] <= 0.25
    assert play.slept[15] >= 30  # less and less often
    assert play.started == 1  # nothing ended


@pytest.mark.parametrize("stage", ["asked", "leaving"])
def test_nothing_leaves_that_is_not_logged_and_the_next_message_is_taken(stage: str) -> None:
    """Held until nobody waits any more: then it is given up, and the daemon lives on."""
    disk = Disk(**{stage: 10**6})
    play = on_full_disk([letter(1, lasts=600)], disk)

    names = play.run()

    assert names[-3:] == ["Held", "Dropped", "Stopped"]
    assert play.sent == []
    assert len(play.allowed) == (stage == "leaving")
    assert 600 <= play.now <= 600 + 60 + 5


def test_a_daemon_that_is_stopped_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(asked=10**6)
    play = on_full_disk([letter()], disk)
    monkeypatch.setattr(play.daemon, "_sleep", lambda _: play.daemon.stop(1e6))

    assert play.run() == ["Connected", "Held", "Dropped", "Stopped"]
    assert play.sent == []


def test_the_worker_may_take_as_long_as_the_answer_is_waited_for() -> None:
    play = on_full_disk([letter(lasts=100.0), letter(lasts=7.0)], Disk(asked=3))
    play.run()

    assert play.allowed == [pytest.approx(100.0 - sum(play.slept[:3])), pytest.approx(7.0)]


@pytest.mark.parametrize("lasts", [0.0, -5.0, float("nan")])
def test_a_message_whose_time_is_over_is_not_worked_on(lasts: float) -> None:
    play = Play([letter(lasts=lasts)])

    assert play.run() == ["Connected", "Asked", "Dropped", "Stopped"]
    assert play.allowed == []
    assert play.started == 1


def test_names_from_the_network_are_fit_for_a_log() -> None:
    asked = unpack(letter())
    assert isinstance(asked, Message)
    asked.content["terms"] = ConfigRecord({"study": "a\nb\x1b[2J", "run": 3.5, "round": "x"})
    play = Play([pack(asked)])
    play.run()

    told = next(what for what in play.happened if isinstance(what, Asked))
    assert (told.study, told.run, told.round) == ("ab[2J", "", 0)
    assert any(isinstance(what, Connected | Stopped) for what in play.happened)


@pytest.mark.parametrize(("claimed", "told"), [(True, 0), (-1, 0), (2**40, 0), (7, 7), (0, 0)])
def test_only_a_number_is_told_as_a_round(claimed: int, told: int) -> None:
    play = Play([letter(claimed)])
    play.run()

    asked = next(what for what in play.happened if isinstance(what, Asked))
    assert type(asked.round) is int
    assert asked.round == told
