"""A hospital that is killed while it answers releases nothing that its ledger does not cover."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import IO

import pytest

from fedward.client.hospital import write_hospital
from fedward.privacy.accounting import epsilon_of
from fedward.privacy.ledger import Ledger
from tests.client.conftest import DECLARED, PRIVATE, House, StudyWith
from tests.privacy.conftest import fast_folder

KILLS, ROUNDS = 60, 12
Question = tuple[int, int]
"""Run and round."""

# A process for each life, so that the imports are made once. A life answers the rounds of a run
# from the one that it is told, until it is killed or all are answered.
HOSPITAL = """
import hashlib, os, sys
from pathlib import Path
import torch
from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build, read_settled
from fedward.study.messages import Contribution, TrainRequest

torch.set_num_threads(1)
file = Path(sys.argv[1])
study = read_settled(file.parent / "studies" / "study.toml")
digest, model = study.digest(), flat.flatten(build(study, seed=0))

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def live(run, first):
    site = Site(read_hospital(file), file.parent)
    for number in range(first, study.training.rounds + 1):
        say("asked", run, number)
        answer = site.answer(lambda: TrainRequest(digest, f"run-{run}", number, model))
        if not isinstance(answer, Contribution):
            say("refused", answer.error, answer.what)
            break
        say("released", run, number, hashlib.sha256(answer.vector.tobytes()).hexdigest())

say("ready")
while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        say(os.getpid())
        live(*map(int, line.split()))
        os._exit(0)
    os.waitpid(child, 0)
    say("over")
"""


@dataclass
class Seen:
    """What came out of the hospital.

    Attributes:
        released: For each question, every answer to it that differs from the others.
        asked: The last question.
        refused: What the hospital would not do.
    """

    released: dict[Question, set[str]] = field(default_factory=dict)
    asked: Question = (0, 1)
    refused: list[str] = field(default_factory=list)

    def hear(self, line: str) -> None:
        kind, *words = line.split()
        if kind == "refused":
            self.refused.append(line)
            return
        question = (int(words[0]), int(words[1]))
        self.asked = question
        if kind == "released":
            self.released.setdefault(question, set()).add(words[2])


def live_and_die(life: subprocess.Popen[str], out: IO[str], seen: Seen, chance: Random) -> None:
    """One life: the last question again, and on, until it is killed at some moment."""
    assert life.stdin is not None
    run, number = seen.asked
    life.stdin.write(f"{run} {number}\n")
    life.stdin.flush()
    process = int(out.readline())
    for _ in range(chance.choice([1, 1, 2, 3, 4])):
        if (line := out.readline()) == "over\n":
            return
        seen.hear(line)
    time.sleep(chance.uniform(0, 0.06))
    os.kill(process, signal.SIGKILL)
    while (line := out.readline()) != "over\n":
        seen.hear(line)


def assert_covered(ledger: Ledger, seen: Seen) -> None:
    """The chain verifies, and every vector that came out has a charge of its own."""
    charges = [entry.charge for entry in ledger.entries()]
    counted = Counter((int(c.run.removeprefix("run-")), c.round) for c in charges)
    for question, answers in seen.released.items():
        assert len(answers) <= counted[question], question
    if charges:
        (steps,) = {charge.steps for charge in charges}
        vectors = sum(map(len, seen.released.values()))
        covered = epsilon_of(
            [steps._replace(steps=steps.steps * vectors)] * (vectors > 0), 1e-5, "rdp"
        )
        assert ledger.epsilon(data="data", delta=1e-5, accountant="rdp") >= covered


@pytest.mark.slow
def test_sixty_kills_at_random_moments_release_nothing_that_is_not_charged(
    plain_study: StudyWith,
) -> None:
    """While it charges, trains, keeps or answers; after each the last question is asked again."""
    study = plain_study({"privacy": PRIVATE, "training.rounds": ROUNDS, "training.local_epochs": 8})
    seen, chance = Seen(), Random(11)
    with fast_folder() as folder:
        house = House(folder)
        house.approve(study)
        file = house.folder / "hospital.toml"
        write_hospital(house.site(**DECLARED).hospital, file)
        ledger = Ledger(house.folder / "state" / "ledger.sqlite")
        with subprocess.Popen(
            [sys.executable, "-c", HOSPITAL, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as life:
            assert life.stdout is not None
            assert life.stdin is not None
            assert life.stdout.readline() == "ready\n"
            for number in range(KILLS):
                if number % 3 == 0:  # crashes may waste three charges of a run
                    seen.asked = (number // 3, 1)
                live_and_die(life, life.stdout, seen, chance)
                assert_covered(ledger, seen)
            life.stdin.close()
        charges = len(ledger.entries())

    vectors = sum(map(len, seen.released.values()))
    assert seen.refused == []
    assert vectors == len(seen.released)  # a kept answer is given again, bit for bit
    assert vectors > 20
    assert charges > vectors  # some died after the charge and before the answer
