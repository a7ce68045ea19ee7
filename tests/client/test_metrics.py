"""Figures for Prometheus: counted from happenings, on loopback, without a patient in them."""

from __future__ import annotations

import stat
from pathlib import Path

import httpx
import pytest

from fedward.client.happenings import (
    Answered,
    Asked,
    Connected,
    Leaving,
    Refused,
    WorkerRestarted,
)
from fedward.client.metrics import Metrics, MetricsPage
from fedward.client.spending import NOTE, Counted, note_spent, noted
from fedward.study.errors import DataError

ASKED = Asked("train", "ab" * 32, "run-1", 1, 1000, "cd" * 32)


def test_what_happened_stands_on_the_page(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    page = MetricsPage(metrics, 0)
    for happening in (
        Connected("a:1"),
        ASKED,
        Leaving(ASKED, 400, "ef" * 32, ""),
        Answered(ASKED, 400, "ef" * 32, 0.5),
        Refused(ASKED, "BudgetError", "no"),
        WorkerRestarted("it ended"),
        Asked("made-up", "", "", 0, 1, ""),
    ):
        metrics(happening)
    note_spent(tmp_path, "hearts", Counted(1.5, "ab" * 32, "run-1"))

    lines = httpx.get(f"http://127.0.0.1:{page.port}/metrics").text.splitlines()
    page.close()

    for line in (
        "fedward_connected 1.0",
        'fedward_messages_total{kind="train"} 1.0',
        'fedward_messages_total{kind="other"} 1.0',
        'fedward_bytes_total{direction="in"} 1001.0',
        'fedward_bytes_total{direction="out"} 400.0',
        "fedward_rounds_total 1.0",
        'fedward_refusals_total{error="BudgetError"} 1.0',
        "fedward_worker_restarts_total 1.0",
        'fedward_epsilon_spent{data_set="hearts"} 1.5',
        'fedward_message_seconds_bucket{kind="train",le="1.0"} 1.0',
    ):
        assert line in lines


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    page = MetricsPage(Metrics(tmp_path), 0)
    with pytest.raises(DataError, match="metrics_port"):
        MetricsPage(Metrics(tmp_path), page.port)
    page.close()


def test_what_was_spent_is_noted_for_each_data_set(tmp_path: Path) -> None:
    note_spent(tmp_path, "a", Counted(1.0, "x", "r"))
    note_spent(tmp_path, "b", Counted(2.0, "x", "r"))
    note_spent(tmp_path, "a", Counted(3.0, "y", "s"))

    assert noted(tmp_path) == {"a": Counted(3.0, "y", "s"), "b": Counted(2.0, "x", "r")}
    assert stat.S_IMODE((tmp_path / NOTE).stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"epsilon": "x"}}'])
def test_a_note_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / NOTE).write_text(text, encoding="utf-8")
    assert noted(tmp_path) == {}
