"""Hospitals that leave for good, that come back, and one that is expelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedward.server.aggregator import RunSettings
from tests.deployment.at_work import ROUNDS, AtWork, at_work, three, until

pytestmark = pytest.mark.slow
FOUR = {"hospitals": 4, "min_hospitals": 3, "deadline_seconds": 12.0}


@pytest.fixture
def consortium() -> Iterator[AtWork]:
    """Four hospitals, three of which are enough."""
    study = three("three-of-four", participation=FOUR)
    with at_work(study, runs=RunSettings(repeats=1, wait_seconds=1.0)) as found:
        yield found


def test_a_run_goes_on_without_one_pauses_without_two_and_is_resumed(consortium: AtWork) -> None:
    run = consortium.train(three("three-of-four", participation=FOUR), "leaving")
    consortium.until_said("D", "asked to train round 1 ")
    consortium.kill("D")
    until(lambda: len(consortium.events(run, "RoundFinished")) >= 2, seconds=60)
    assert consortium.events(run, "RoundFinished")[1]["answered"] == 3
    begun = len(consortium.said("C"))
    asked = consortium.until_said("C", r"asked to train round (\d+)", after=begun)
    consortium.kill("C")

    record = consortium.ended(run)
    assert record.state == "paused"
    assert "2 of 3" in record.reason or "2 hospitals" in record.reason, record.reason
    listed = consortium.fedward("aggregator", "runs", "--aggregator", consortium.hub_file)
    assert "paused" in listed

    consortium.start("C")
    consortium.until_said("C", "connected to", after=len(consortium.said("C")))
    consortium.fedward("aggregator", "resume", "leaving", "--aggregator", consortium.hub_file)
    consortium.finished(run)
    finished, lost = (
        [event["round"] for event in consortium.events(run, kind)]
        for kind in ("RoundFinished", "RoundLost")
    )
    assert sorted(finished + lost) == list(range(1, ROUNDS + 1))
    # A round's work is never begun twice: if it was cut off, the round is lost.
    assert set(lost) <= {int(asked[1])}
    consortium.no_traceback()


def test_an_expelled_hospital_is_refused_at_the_gate_from_the_next_round_on(
    consortium: AtWork,
) -> None:
    study = three("three-of-four", participation=FOUR, training={"rounds": 200})
    run = consortium.train(study, "expelling")
    consortium.until_said("A", "asked to train round 2 ")
    deployment, begun = consortium.deployment, len(consortium.said("D"))
    deployment.consortium.expel("D")
    consortium.fedward(
        *("aggregator", "roster", deployment.consortium.roster_path),
        *("--aggregator", consortium.hub_file),
    )
    log = consortium.hub / "state" / "log.jsonl"
    until(lambda: "hospital removed" in log.read_text("utf-8"), what="the roster at work")
    latest = consortium.events(run, "RoundStarted")[-1]["round"]
    consortium.until_said("D", "not connected: .*transport key", after=begun)
    audited = len(consortium.audited("D"))
    consortium.finished(run, seconds=600)

    rounds = consortium.events(run, "RoundFinished")
    assert rounds[-1]["answered"] == 3
    assert len(consortium.audited("D")) == audited
    answers = [e["round"] for e in consortium.events(run, "Answered") if e["hospital"] == "D"]
    assert max(answers) <= latest < rounds[-1]["round"]
    assert deployment.parts["D"].process is not None
    assert deployment.parts["D"].process.poll() is None
    consortium.no_traceback()
