"""DP-SGD whose unit is the patient (Abadi et al. 2016, algorithm 1, over patients).

Neighbouring data sets differ by everything that one patient has. Every patient is in a step with
the same probability, independently of the others (Poisson), and brings at most K records; the mean
gradient of these is the patient's gradient, which is clipped; the sum over patients gets noise and
is divided by a constant that does not depend on the data. A step without patients is a step of
noise. Per-record gradients are Opacus' (1.6; of its optimizer `pre_step` and `signal_skip_step` are
relied on, and `clip_and_accumulate` and `add_noise` are replaced).

A patient whose gradient is not finite counts as zero. Whoever sends the model can make it overflow
for whom he likes: were the step to fail there, failing would tell who is in the data.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from fedward.privacy.precision import FLOAT32, Precision
from fedward.privacy.privacy_errors import (
    HalfPrecision,
    NoGradient,
    NotPerRecord,
    NotThePoissonSample,
    StepsMismatch,
)
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import Batch, LocalSteps, Loss


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

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Hook the model, so that every record's gradient is kept apart.

        Raises:
            UntrainableLayer: A layer cannot be trained privately; the message names it.
            BufferWouldLeave: The model carries numbers that are no parameters.
            HalfPrecision: The steps cannot be private in this precision.
        """
        refuse_unprotected(model)
        self._model = self.precision.apart(model)
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = _SecretNoise(
            optimizer,
            sigma=self.noise_multiplier,
            norm=self.clipping_norm,
            divisor=self.divisor,
            stream=self.noise,
        )
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
        pieces = self._pieces(patients)
        for piece in pieces:
            self._optimizer.zero_grad()
            self._keep_apart(loss, inputs[piece], labels[piece], patients[piece])
            self._optimizer.signal_skip_step(  # type: ignore[no-untyped-call]
                do_skip=piece is not pieces[-1]
            )
            self._optimizer.pre_step()
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

    def _keep_apart(self, loss: Loss, inputs: Tensor, labels: Tensor, patients: Tensor) -> None:
        """Leave every patient's mean gradient in the parameters' `grad_sample`."""
        if not len(inputs):
            for parameter in self._trainable:
                vars(parameter)["grad_sample"] = parameter.new_zeros((0, *parameter.shape))
            return
        _, place, records = patients.unique_consecutive(return_inverse=True, return_counts=True)
        weight = records.to(inputs.device).reciprocal()[place.to(inputs.device)]
        outputs = self.precision.outputs(self._model, inputs)
        total = (loss(outputs, labels) * weight).sum()
        with warnings.catch_warnings():
            # The first layer's input needs no gradient: PyTorch warns, Opacus copes.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            total.backward()
        if any(getattr(p, "grad_sample", None) is None for p in self._trainable):
            raise NoGradient(
                "a trainable parameter has no gradient for each patient",
                todo="freeze it, or choose a model whose every layer takes part in its output",
            )
        if {len(vars(p)["grad_sample"]) for p in self._trainable} - {len(inputs)}:
            raise NotPerRecord(
                "a layer does not see one entry for each record",
                todo="choose a model whose every layer keeps the records in its first dimension",
            )
        if any(vars(p)["grad_sample"].dtype != p.dtype for p in self._trainable):
            raise HalfPrecision(
                "a layer keeps its records' gradients with fewer bits than its parameters have",
                todo='set precision = "float32" in [training] of hospital.toml',
            )
        if len(records) == len(patients):
            return
        for parameter in self._trainable:
            apart: Tensor = vars(parameter)["grad_sample"]
            means = apart.new_zeros((len(records), *parameter.shape))
            vars(parameter)["grad_sample"] = means.index_add_(0, place.to(apart.device), apart)


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


class _SecretNoise(DPOptimizer):
    """Opacus' optimizer, for every gradient there is, with noise that nobody can foretell."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        sigma: float,
        norm: float,
        divisor: float,
        stream: SecretStream,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=sigma,
            max_grad_norm=norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._divisor = divisor
        self._stream = stream

    def clip_and_accumulate(self) -> None:
        """Add the patients' clipped gradients to the parameters' `summed_grad`."""
        apart: list[Tensor] = [vars(parameter)["grad_sample"] for parameter in self.params]
        sizes = (parameter.numel() for parameter in self.params)
        each = [g.reshape(len(g), size).norm(dim=1) for g, size in zip(apart, sizes, strict=True)]
        norms = torch.stack(each).norm(dim=0)
        finite = norms.square().isfinite()  # what is hardly finite cannot be clipped exactly
        zero = norms.new_zeros(())
        factors = torch.where(finite, (self.max_grad_norm / (norms + 1e-6)).clamp(max=1), zero)
        if not finite.all():
            apart = [torch.where(_beside(finite, g), g, zero) for g in apart]
        for parameter, gradients in zip(self.params, apart, strict=True):
            clipped = torch.einsum("i,i...", factors, gradients)
            before = vars(parameter).get("summed_grad")
            vars(parameter)["summed_grad"] = clipped if before is None else before + clipped

    def add_noise(self) -> None:
        """Leave the noisy sum of clipped gradients, divided, in the parameters' `grad`.

        Noise, sum and quotient are in double precision, and rounded once.
        """
        totals: list[Tensor] = [vars(parameter)["summed_grad"] for parameter in self.params]
        noisy = self._stream.noisy(
            torch.cat([total.flatten() for total in totals]),
            self.noise_multiplier * self.max_grad_norm,
        )
        noisy /= self._divisor
        pieces = noisy.split([total.numel() for total in totals])
        for parameter, total, piece in zip(self.params, totals, pieces, strict=True):
            parameter.grad = piece.to(total).view_as(parameter)


def _beside(of_patients: Tensor, gradients: Tensor) -> Tensor:
    """The first with as many dimensions as the second."""
    return of_patients.view(-1, *[1] * (gradients.ndim - 1))


def _not_drawn(what: str) -> NotThePoissonSample:
    return NotThePoissonSample(what, todo="report this: nothing has left the hospital")


def _mismatch(taken: int, charged: int) -> StepsMismatch:
    return StepsMismatch(
        f"{taken} steps were taken, and {charged} are charged",
        todo="report this: nothing has left the hospital",
    )
