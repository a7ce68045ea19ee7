"""A hospital whose clock is an hour off: it says so in a clear line, and takes part to the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest

from fedward.simulation.deployment import Part
from tests.deployment.at_work import ROUNDS, AtWork, at_work, three

pytestmark = pytest.mark.slow
STUDY = three("patient", private=True, participation={"deadline_seconds": 120.0})
FAST, SLOW = "B", "C"
HOUR = 3600

CLOCK = """
import datetime, os, sys, time

ahead = float(os.environ["SECONDS_AHEAD"])
now, now_ns = time.time, time.time_ns

def shifted():
    # gRPC hands the end of a wait to its library in C, which has the machine's own clock.
    asks = sys._getframe(1).f_globals.get("__name__", "")
    return now() + (0 if asks.startswith("grpc") else ahead)

time.time = shifted
time.time_ns = lambda: now_ns() + int(ahead * 1e9)

# The type itself stays: libraries in C know it by its address.
import flwr.supercore.date

flwr.supercore.date.now = lambda: datetime.datetime.fromtimestamp(shifted(), datetime.UTC)
"""


@dataclass
class OffPart(Part):
    """A process, and those that it starts, whose clock is off.

    Attributes:
        folder: Of the file that Python reads at its start.
        ahead: Seconds; behind if negative.
    """

    folder: Path = field(default_factory=Path)
    ahead: int = 0

    def start(self) -> None:
        (self.folder / "sitecustomize.py").write_text(CLOCK, "utf-8")
        more = {"PYTHONPATH": str(self.folder), "SECONDS_AHEAD": str(self.ahead)}
        with patch.dict(os.environ, more):
            super().start()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AtWork]:
    """Three hospitals, of which one's clock is an hour ahead and another's an hour behind."""

    def prepare(made: AtWork) -> None:
        for name, ahead in ((FAST, HOUR), (SLOW, -HOUR)):
            part, folder = made.deployment.parts[name], tmp_path_factory.mktemp(name)
            made.deployment.parts[name] = OffPart(
                part.command, part.log, folder=folder, ahead=ahead
            )

    with at_work(STUDY, prepare=prepare) as found:
        yield found


def test_hospitals_whose_clocks_are_an_hour_off_take_part_to_the_end(consortium: AtWork) -> None:
    run = consortium.train(STUDY, "off")
    consortium.finished(run)

    rounds = consortium.events(run, "RoundFinished")
    assert [(event["answered"], event["attempts"]) for event in rounds] == [(3, 1)] * ROUNDS
    for name, words in ((FAST, "ahead of"), (SLOW, "behind")):
        said = [
            line for line in consortium.said(name).splitlines() if "this machine's clock" in line
        ]
        assert len(said) == 1, said  # one line, whatever else happens
        assert f"is {HOUR} s {words} the aggregator's" in said[0].replace(
            f"{HOUR - 1} s", f"{HOUR} s"
        ).replace(f"{HOUR + 1} s", f"{HOUR} s")
        assert "NTP" in said[0]
        assert [entry.charge.round for entry in consortium.charges(name)] == [1, 2, 3, 4]
        assert consortium.audited(name)
    assert "clock" not in consortium.said("A")
    consortium.no_traceback()
