"""What a log says of a federation: one line an event, with the figures that are known."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fedward.server.events import Answered, Event, Outcome, Refused, RoundFinished, RoundStarted
from fedward.server.sentences import log_event, sentence
from fedward.study.messages import Refusal

FIGURES = {"records": 9, "loss": 0.51234, "accuracy": 0.75, "auc": None}


def test_a_finished_round_says_how_many_answered_and_how_good_the_model_was() -> None:
    line = sentence(RoundFinished(4, 9, 1.234, 3, 0, "validation", FIGURES))

    assert line is not None
    for word in ("round 4", "3 hospitals", "1.23 s", "after 3 rounds", "accuracy 0.750"):
        assert word in line
    assert "loss 0.512" in line
    assert "AUC" not in line  # unknown here


def test_a_refusal_names_hospital_round_reason_and_remedy() -> None:
    line = sentence(Refused(2, Refusal("Charite", "RefusedError", "budget is spent", "ask us")))

    assert line == "round 2: hospital Charite: budget is spent; ask us"


def test_a_refusal_without_a_remedy_has_no_loose_end() -> None:
    line = sentence(Refused(2, Refusal("Charite", "Error", "broken", "")))

    assert line == "round 2: hospital Charite: broken"


def test_the_end_gives_the_test_figures() -> None:
    outcome = Outcome(np.zeros(1, np.float32), FIGURES, None, 0.5, None)

    line = sentence(outcome)

    assert line is not None
    assert "test" in line
    assert "accuracy 0.750" in line


@pytest.mark.parametrize("event", [RoundStarted(1, 2, 3), Answered(1, "A")], ids=repr)
def test_smaller_events_are_not_worth_a_line(event: Event) -> None:
    assert sentence(event) is None


def test_the_log_gets_the_same_line(caplog: pytest.LogCaptureFixture) -> None:
    event = RoundFinished(1, 2, 0.5, 3, 0, None, None)
    with caplog.at_level(logging.INFO, logger="flwr.fedward"):
        log_event(event)
        log_event(RoundStarted(1, 2, 3))

    assert [record.getMessage() for record in caplog.records] == [sentence(event)]
