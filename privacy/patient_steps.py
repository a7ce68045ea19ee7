"""DP-SGD whose unit is the patient (Abadi et al. 2016, algorithm 1, over patients).

Neighbouring data sets differ by everything that one patient has. Every patient is in a step with
the same probability, independently of the others (Poisson), and brings at most K records; the mean
gradient of these is the patient's gradient, which is clipped; the sum over patients gets noise and
is divided by a constant that does not depend on the data. A step without patients is a step of
noise. The clipped sum is `gradients`' business: Fedward's engine, or Opacus' hooks.

A patient whose gradient is not finite counts as zero. Whoever sends the model can make it overflow
for whom he likes: were the step to fail there, failing would tell who is in the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedward.privacy.gradients.bounds import Clipping
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import ClippedSums, Gradients
from fedward.privacy.precision import FLOAT32, Precision
from fedward.privacy.privacy_errors import NotThePoissonSample, StepsMismatch
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import Batch, LocalSteps, Loss

_SOURCES: dict[Gradients, type[ClippedSums]] = {"fedward": EngineSums, "opacus": HookedSums}


@dataclass
class PatientSteps(LocalSteps):
    """The private steps of one round at one hospital.

    Attributes:
        noise_multiplier: Standard deviation of the noise in units of `clipping_norm`.
        clipping_norm: Largest L2 norm of one patient's gradient (C).
        sampling_rate: Probability of a patient in a step (q).
        records_per_patient: Most records that a patient brings to a step (K).
        divisor: Public constant that the noisy sum is divided by.
        steps: Steps of this round, as charged.
        sampling: Source of the samples.
        noise: Source of the noise.
        at_once: Most records whose gradients are kept apart at the same time; a patient's records
            are never torn, so at least K. It changes the memory needed and nothing else.
        precision: How finely the network computes; gradients, norms and noise are float32.
        clipping: How a patient's gradient is bounded.
        gradients: Who makes the clipped sum; it is the same up to rounding.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_rate: float
    records_per_patient: int
    divisor: float
    steps: int
    sampling: SecretStream
    noise: SecretStream
    at_once: int = 4096
    precision: Precision = FLOAT32
    clipping: Clipping = "flat"
    gradients: Gradients = "fedward"

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Find a way to each patient's gradient in every layer.

        Raises:
            UntrainableLayer: A layer cannot be trained privately; the message names it.
            BufferWouldLeave: The model carries numbers that are no parameters.
        """
        refuse_unprotected(model, self.gradients)
        self._sums = _SOURCES[self.gradients](
            model, bound=self.clipping_norm, clipping=self.clipping, precision=self.precision
        )
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._taken = 0
        self._drawn: Tensor | None = None
        return model

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        """Poisson samples of patients; some may be empty. Each is for one gradient, at once."""
        everybody, number = patients.cpu().unique(return_inverse=True)
        for _ in range(self.steps):
            sampled = self.sampling.uniform(len(everybody)) < self.sampling_rate
            records = sampled[number].nonzero().flatten()
            batch = at_most(self.records_per_patient, records, number, self.sampling)
            self._drawn = batch.patients.clone()
            yield batch

    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor, patients: Tensor) -> None:
        """Clipped sum over patients, plus noise, over the divisor.

        Args:
            loss: Of each record.
            inputs: Of the batch that `batches` yielded last, in its order.
            labels: Of the same records.
            patients: The batch's own.

        Raises:
            NotThePoissonSample: These are not the patients that were drawn last.
            NoGradient: A trainable parameter got no per-record gradient.
            NotPerRecord: What is kept apart in a layer are not records.
            HalfPrecision: It is kept apart with fewer bits than the parameters have.
            StepsMismatch: More steps are taken than were charged.
        """
        if self._taken >= self.steps:
            raise _mismatch(self._taken + 1, self.steps)
        self._refuse_another(patients, len(inputs), len(labels))
        totals = [torch.zeros_like(parameter) for parameter in self._trainable]
        for piece in self._pieces(patients) if len(patients) else ():
            _, counts = patients[piece].cpu().unique_consecutive(return_counts=True)
            sums = self._sums.of(loss, inputs[piece], labels[piece], counts)
            totals = [total + own for total, own in zip(totals, sums, strict=True)]
        self._leave_noisy(totals)
        self._taken += 1

    def finish(self) -> None:
        """Raise StepsMismatch unless exactly the charged steps were taken."""
        if self._taken != self.steps:
            raise _mismatch(self._taken, self.steps)

    def _refuse_another(self, patients: Tensor, *counts: int) -> None:
        """The guarantee is of a Poisson sample with each patient's records together, used once."""
        drawn, self._drawn = self._drawn, None
        if drawn is None or not torch.equal(drawn, patients.cpu()):
            raise _not_drawn("the step's patients are not those that were drawn last")
        if set(counts) != {len(drawn)}:
            raise _not_drawn("the step has other records than were drawn")
        if (drawn[1:] < drawn[:-1]).any():
            raise _not_drawn("the step's patients are not in ascending order")
        _, records = drawn.unique_consecutive(return_counts=True)
        if (records > self.records_per_patient).any():
            raise _not_drawn("a patient brings more records than the study allows")

    def _pieces(self, patients: Tensor) -> list[slice]:
        """The batch in pieces of at most `at_once` records that tear no patient."""
        ends = (patients[1:] != patients[:-1]).nonzero().flatten().add(1).tolist()
        pieces, start, last = [], 0, 0
        for end in [*ends, len(patients)]:
            if end - start > self.at_once and last > start:
                pieces.append(slice(start, last))
                start = last
            last = end
        return [*pieces, slice(start, len(patients))]

    def _leave_noisy(self, totals: list[Tensor]) -> None:
        """Leave the clipped sums with noise, divided, in the parameters' `grad`.

        Noise, sum and quotient are in double precision, and rounded once.
        """
        noisy = self.noise.noisy(
            torch.cat([total.flatten() for total in totals]),
            self.noise_multiplier * self.clipping_norm,
        )
        noisy /= self.divisor
        pieces = noisy.split([total.numel() for total in totals])
        for parameter, total, piece in zip(self._trainable, totals, pieces, strict=True):
            parameter.grad = piece.to(total).view_as(parameter)


def at_most(most: int, records: Tensor, number: Tensor, stream: SecretStream) -> Batch:
    """So many of each patient's records at random, patient by patient.

    Args:
        most: That a patient brings.
        records: To choose from, shape (n,).
        number: Of the patient of each record there is.
        stream: Source of the choice.
    """
    order = stream.uniform(len(records)).argsort()
    records = records[order]
    records = records[number[records].argsort(stable=True)]
    patients = number[records]
    first = torch.searchsorted(patients, patients)
    kept = torch.arange(len(records)) - first < most
    return Batch(records[kept], patients[kept])


def _not_drawn(what: str) -> NotThePoissonSample:
    return NotThePoissonSample(what, todo="report this: nothing has left the hospital")


def _mismatch(taken: int, charged: int) -> StepsMismatch:
    return StepsMismatch(
        f"{taken} steps were taken, and {charged} are charged",
        todo="report this: nothing has left the hospital",
    )
