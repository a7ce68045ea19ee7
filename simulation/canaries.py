"""Canaries: invented patients, of whom an audit tries to find out which were trained on.

Each is far from all patients and from the other canaries, so that its gradient is long and points
in a direction of its own. All its records are the same one: a build that limits what a record does,
and not what a patient does, lets it do as much as so many patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedward.client.data.records import Records
from fedward.client.data.stored import Stored, joined
from fedward.client.randomness import generator
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.watched_steps import Suspects
from fedward.study.study import Study

_FAR_OUT = 2.0  # standard deviation of a canary's inputs; that of patients' is about 1


@dataclass(frozen=True)
class Canaries:
    """Patients who may be there.

    Attributes:
        inputs: Of the record of each, shape (m, *input_shape).
        labels: Shape (m,).
        included: Whether each is there, shape (m,), bool.
        copies: How many times each has its record, >= 1.
    """

    inputs: Tensor
    labels: Tensor
    included: Tensor
    copies: int

    def __len__(self) -> int:
        """Number of canaries."""
        return len(self.labels)


def draw_canaries(study: Study, number: int, *, copies: int, seed: int) -> Canaries:
    """Canaries for a study; each is there with probability 1/2, independently of the others.

    Args:
        study: Says the shape of inputs, and the classes.
        number: How many, >= 2.
        copies: How many times each has its record, >= 1.
        seed: Of everything that is drawn.
    """
    source = generator(seed, "audit", "canaries")
    inputs = torch.randn(number, *study.data.input_shape, generator=source) * _FAR_OUT
    labels = torch.randint(len(study.task.classes), (number,), generator=source)
    coins = SecretStream.pretended(seed, "audit", "included").uniform(number)
    return Canaries(inputs, labels, coins < 0.5, copies)


def suspects_of(known: Records, canaries: Canaries) -> Suspects:
    """A hospital's patients, who are there, then the canaries, who may be; on the same device."""
    names, numbers = known.patients.unique(return_inverse=True)
    device, added = known.device, torch.arange(len(canaries)) + len(names)
    return Suspects(
        joined([known.inputs, canaries.inputs.to(device)]),
        torch.cat([known.whole_labels.to(device), canaries.labels.to(device)]),
        torch.cat([numbers, added.to(device)]),
        len(canaries),
    )


def population(known: Records, canaries: Canaries) -> Records:
    """The training records of a hospital, and all of those canaries who are there."""
    everybody = suspects_of(known, canaries)
    times = torch.ones(len(everybody.labels), dtype=torch.int64)
    times[len(known) :] = canaries.included * canaries.copies
    times = times.to(known.device)
    numbers = torch.arange(len(times), device=times.device).repeat_interleave(times)
    inputs = everybody.inputs
    return Records(
        inputs.chosen(numbers) if isinstance(inputs, Stored) else inputs[numbers],
        everybody.labels.repeat_interleave(times),
        everybody.patients.repeat_interleave(times),
    )
