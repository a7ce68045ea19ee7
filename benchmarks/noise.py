"""What noise from the cipher's stream costs: beside PyTorch's generator, and within a private step.

    python benchmarks/noise.py [--json] [--rounds N] [--quick]

See README.md for what each row is. `--rounds N`: how many repeats or steps are timed (15).
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from report import Report, Row, arguments, cores, row, show
from torch import Tensor, nn

from fedward.client.training import make_optimizer
from fedward.models.registry import build, read_settled
from fedward.models.task import task_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.secret_stream import SecretStream
from fedward.study.study import ModelChoice, Study

PACKAGES = ("fedward", "torch", "numpy", "cryptography", "opacus")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIZES = (10**5, 10**6, 10**7)
REPEATS, WARM_UP = 15, 2
DEVIATION = 1.3
PIECE = 1 << 18  # bytes that the cipher alone is asked for at once
BYTES_A_NUMBER = 32  # half of eight words of 64 bits: Box and Muller, and half the sum of four
MOST = 0.05  # of a step


@dataclass(frozen=True)
class Hospital:
    """A private step as a hospital takes it; the study's own model, or a larger one.

    Attributes:
        name: Of the row.
        example: Study file.
        patients: Training patients of a middling hospital of the study, a record each.
        sampling_rate: The study's.
        steps: Of a round, the study's. Each round has a stream of its own.
        model: Settings in place of the study's.
    """

    name: str
    example: str
    patients: int
    sampling_rate: float
    steps: int = 1
    model: dict[str, Any] = field(default_factory=dict)


DEMO = Hospital("the demo's perceptron", "breast-cancer.toml", 100, 0.25, steps=4)
SMALL = Hospital("the chest X-ray network", "chest-xray-private.toml", 1177, 0.2)
LARGE = Hospital(
    "a larger network",
    "chest-xray-private.toml",
    1177,
    0.2,
    model={"channels": (64, 128, 256), "hidden": 64},
)


def main() -> None:
    """Measure, and print."""
    options = arguments("Cost of noise that nobody can foretell.").parse_args()
    repeats = options.rounds or (2 if options.quick else REPEATS)
    sizes = (10**3,) if options.quick else SIZES
    hospitals = (DEMO,) if options.quick else (DEMO, SMALL, LARGE)
    report = Report("noise")
    report.checks["load before"] = os.getloadavg()
    for threads in sorted({1, cores()}):
        torch.set_num_threads(threads)
        for size in sizes:
            report.rows += _generators(size, repeats, threads)
        for hospital in hospitals:
            report.rows.append(_step(hospital, repeats, threads))
    report.checks["load after"] = os.getloadavg()
    _judge(report)
    show(report, packages=PACKAGES, as_json=options.json)


def _generators(size: int, repeats: int, threads: int) -> list[Row]:
    """Nanoseconds a number: ours, PyTorch's with its own generator, the cipher alone; in turns."""
    stream, values = SecretStream.fresh(), torch.zeros(size)
    alone = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    zeros, out = memoryview(bytes(PIECE)), memoryview(bytearray(PIECE))

    def encrypt() -> None:
        wanted = BYTES_A_NUMBER * size
        for at in range(0, wanted, PIECE):
            length = min(PIECE, wanted - at)
            alone.update_into(zeros[:length], out[:length])

    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: stream.noisy(values, DEVIATION),
        "torch.randn, added": lambda: torch.randn(size).mul_(DEVIATION).add_(values),
        "torch.randn": lambda: torch.randn(size),
        "AES-CTR alone": encrypt,
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(WARM_UP + repeats):
        for side, draw in sides.items():
            started = time.perf_counter()
            draw()
            if repeat >= WARM_UP:
                found[side].append((time.perf_counter() - started) / size * 1e9)
    ours = found.pop("ours")
    name = f"{size:,} numbers, {_said(threads)}"
    return [row(name, ours, peer, unit="ns", peer_name=side) for side, peer in found.items()]


class _TimedStream(SecretStream):
    """Adds up the seconds that noise took."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.seconds = 0.0

    def noisy(self, values: Tensor, deviation: float) -> Tensor:
        started = time.perf_counter()
        found = super().noisy(values, deviation)
        self.seconds += time.perf_counter() - started
        return found


def _step(hospital: Hospital, repeats: int, threads: int) -> Row:
    """Milliseconds of a step's noise, beside the whole step's: means of a round, round by round."""
    study = _study(hospital)
    model = build(study, seed=0)
    size = sum(parameter.numel() for parameter in model.parameters())
    found = [_round(hospital, study, copy.deepcopy(model)) for _ in range(WARM_UP + repeats)]
    ours, peer = zip(*found[WARM_UP:], strict=True)
    name = f"noise of a step of {hospital.name}, {size:,} parameters, {_said(threads)}"
    return row(name, ours, peer, unit="ms", peer_name="the whole step")


def _round(hospital: Hospital, study: Study, model: nn.Module) -> tuple[float, float]:
    """Milliseconds of noise and of everything, a step; the records are random."""
    inputs = torch.randn(hospital.patients, *study.data.input_shape)
    labels = torch.randint(0, len(study.task.classes), (hospital.patients,))
    task, noise = task_of(study), _TimedStream(os.urandom(32))
    steps = PatientSteps(
        noise_multiplier=DEVIATION,
        clipping_norm=1.0,
        sampling_rate=hospital.sampling_rate,
        records_per_patient=1,
        divisor=hospital.sampling_rate * hospital.patients,
        steps=hospital.steps,
        sampling=SecretStream.fresh(),
        noise=noise,
    )
    optimizer = make_optimizer(model, study.training)
    model.train()
    steps.prepare(model, optimizer)
    started = time.perf_counter()
    for records, patients in steps.batches(torch.arange(hospital.patients)):
        steps.gradient(task.loss, inputs[records], labels[records], patients)
        optimizer.step()
    whole = time.perf_counter() - started
    steps.finish()
    return 1e3 * noise.seconds / hospital.steps, 1e3 * whole / hospital.steps


def _study(hospital: Hospital) -> Study:
    study = read_settled(EXAMPLES / hospital.example)
    settings = {**study.model.settings, **hospital.model}
    return study.model_copy(update={"model": ModelChoice(name=study.model.name, **settings)})


def _said(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def _judge(report: Report) -> None:
    """Which steps keep to the goal, in this run."""
    for entry in report.rows:
        if entry.unit == "ms":
            said = "reached" if entry.ratio <= MOST else "missed"
            report.checks[f"goal: {entry.name}"] = f"{entry.ratio:.1%}, at most {MOST:.0%}: {said}"


if __name__ == "__main__":
    main()
