"""Private steps that are watched by somebody who wants to know from whom they learn.

The guarantee of DP-SGD holds against whoever sees the noisy gradient of every step, knows every
patient's records, and lacks only who is there (white-box: Nasr et al. 2023, "Tight auditing of
differentially private machine learning"; Steinke et al. 2023). The watcher here computes clipped
gradients of everybody at each step's weights, on a network of its own: what is watched does not
change.

What it sees of a step is a sum y = sum_i B_i g_i + noise, where B_i is 1 with probability q for
whoever is there. So y is, but for a known mean, a linear regression on the canaries' gradients c_i
with coefficients q (s_i - 1/2), s_i being 1 for a canary that is there, and with errors that come
from the noise and from the draw of patients. Its best linear estimate is the score.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.optim import Optimizer

from fedward.privacy.attendance import Attendance
from fedward.privacy.gradients.bounds import clip_factors
from fedward.privacy.gradients.hooks import opacus_form
from fedward.privacy.gradients.source import layers_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.steps import Batch, LocalSteps, Loss

_AT_ONCE = 256  # records whose gradients are kept apart at the same time
_ROUNDING = 1e-4  # least noise that is assumed, in squared lengths of a gradient
_FEW = 20  # weights from which a parameter's noise can be told


class Indexed(Protocol):
    """A tensor, or what gives tensors of its rows."""

    def __getitem__(self, which: Tensor | slice, /) -> Tensor:
        """These rows."""


@dataclass(frozen=True)
class Suspects:
    """Everybody who may be there.

    Attributes:
        inputs: Of all their records, shape (n, *input_shape).
        labels: Shape (n,).
        patients: Numbers 0, 1, ... of the records' patients, shape (n,); canaries have the last.
        canaries: How many of the patients are there with probability 1/2; the others surely are.
    """

    inputs: Indexed
    labels: Tensor
    patients: Tensor
    canaries: int


class Evidence:
    """What the steps said of each canary so far; one for all rounds of a training.

    Attributes:
        steps: How many were watched.
    """

    def __init__(self, canaries: int) -> None:
        """Nothing is known of these canaries yet."""
        self._information = torch.zeros(canaries, canaries, dtype=torch.float64)
        self._pull = torch.zeros(canaries, dtype=torch.float64)
        self._rate = 1.0
        self.steps = 0

    def add(self, gradients: Sequence[Tensor], released: Sequence[Tensor], rate: float) -> None:
        """Add one step.

        Args:
            gradients: Everybody's clipped gradient, of each parameter (patients, d), canaries last.
            released: The noisy sum of those that were drawn, of each parameter (d,).
            rate: Probability of a patient in the step.
        """
        canaries, patients = len(self._pull), len(gradients[0])
        there = gradients[0].new_ones(patients)
        there[-canaries:] = 0.5
        rest = [y - rate * (there @ g) for y, g in zip(released, gradients, strict=True)]
        drawn = rate * (1 - rate) * there
        uncertain = drawn + rate**2 * there * (1 - there)
        alike = torch.zeros(patients, patients, dtype=torch.float64)
        pull = torch.zeros(patients, dtype=torch.float64)
        for g, y, noise in zip(gradients, rest, _noise(gradients, rest, uncertain), strict=True):
            alike += (g @ g.T).cpu() / noise
            pull += (g @ y).cpu() / noise
        # In units of the noise the errors' covariance is V = I + G' W G with W = diag(drawn). By
        # the push-through identity, G V^-1 [G', y] = (I + G G' W)^-1 G [G', y].
        errors = alike * drawn.cpu() + torch.eye(patients)
        said = torch.linalg.solve(errors, torch.column_stack([alike[:, -canaries:], pull]))
        self._information += said[-canaries:, :canaries]
        self._pull += said[-canaries:, canaries]
        self._rate = rate
        self.steps += 1

    def scores(self) -> Tensor:
        """How much each canary seems to be there, shape (m,), float64; higher is likelier.

        Ridge regression. How far coefficients spread is taken from the evidence itself (method of
        moments), and is at least what a right build has, q^2 / 4: a broken one may let some
        patients weigh much more.
        """
        moment = self._pull.square().sum() - self._information.trace()
        spread = moment / self._information.square().sum().clamp(min=torch.finfo().tiny)
        least = self._rate**2 / 4
        ridge = torch.eye(len(self._pull)) / spread.clamp(min=least)
        found: Tensor = torch.linalg.solve(self._information + ridge, self._pull)
        return found


class WatchedSteps(LocalSteps):
    """The same steps, with a watcher who takes notes of every gradient that they leave."""

    def __init__(
        self,
        steps: PatientSteps,
        suspects: Suspects,
        evidence: Evidence,
        attendance: Attendance | None = None,
    ) -> None:
        """Watch these steps.

        Args:
            steps: One round's.
            suspects: Whom the watcher looks for, on the device of the training.
            evidence: Where the notes are kept.
            attendance: Where it is noted who is in each step; nowhere if None.
        """
        self._steps = steps
        self._suspects = suspects
        self._evidence = evidence
        self._attendance = attendance

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Copy the network before the steps hook it."""
        self._own = opacus_form(copy.deepcopy(model)).eval()  # `vmap` takes no vendor's kernels
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._layers = layers_of(model, list(self._weights.values()))
        return self._steps.prepare(model, optimizer)

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        """The batches of the steps."""
        return self._steps.batches(patients)

    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor, patients: Tensor) -> None:
        """The gradient of the steps, noted down."""
        self._steps.gradient(loss, inputs, labels, patients)
        if self._attendance is not None:
            self._attendance.add(patients)
        left = [p.grad for p in self._weights.values() if p.grad is not None]
        released = [(g * self._steps.divisor).flatten() for g in left]
        self._evidence.add(self._gradients(loss), released, self._steps.sampling_rate)

    def finish(self) -> None:
        """Finish the steps."""
        self._steps.finish()

    def _gradients(self, loss: Loss) -> list[Tensor]:
        """Everybody's clipped mean gradient at the weights of now, of each parameter."""

        def of_record(weights: dict[str, Tensor], record: Tensor, label: Tensor) -> Tensor:
            outputs = functional_call(self._own, weights, (record.unsqueeze(0),))
            return loss(outputs, label.unsqueeze(0)).squeeze(0)

        everybody, now = self._suspects, {k: p.detach() for k, p in self._weights.items()}
        share = everybody.patients.bincount().reciprocal()[everybody.patients]
        patients = int(everybody.patients.max()) + 1
        means = {k: p.new_zeros(patients, p.numel()) for k, p in now.items()}
        for piece in torch.arange(len(share), device=share.device).split(_AT_ONCE):
            each = vmap(grad(of_record), in_dims=(None, 0, 0))(
                now, everybody.inputs[piece].to(piece.device), everybody.labels[piece]
            )
            for name, apart in each.items():
                weighted = apart.flatten(1) * share[piece].unsqueeze(1)
                means[name].index_add_(0, everybody.patients[piece], weighted)
        squares = torch.stack([g.square().sum(dim=1).double() for g in means.values()])
        cuts, finite = clip_factors(
            squares,
            self._layers,
            self._steps.clipping_norm,
            self._steps.clipping,
            next(iter(now.values())).dtype,
        )
        there = finite.unsqueeze(1)  # the others count as zero, as in the steps
        pairs = zip(means.values(), cuts, strict=True)
        return [torch.where(there, g * cut.to(g).unsqueeze(1), 0.0) for g, cut in pairs]


def _noise(
    gradients: Sequence[Tensor], rest: Sequence[Tensor], uncertain: Tensor
) -> Iterator[float]:
    """Variance of the noise in each parameter: what chance and patients leave unexplained.

    It is not taken from the steps, for the noise that they speak of may be missing, in one
    parameter or in all. A parameter of few weights gets the whole model's.
    """
    squares = [g.square().sum(dim=1) for g in gradients]
    left = [float(y.square().sum() - uncertain @ s) for y, s in zip(rest, squares, strict=True)]
    least = _ROUNDING * float(torch.stack(squares).sum(dim=0).mean())
    whole = max(sum(left) / sum(map(len, rest)), least)
    for own, y in zip(left, rest, strict=True):
        yield max(own / len(y) if len(y) >= _FEW else whole, least, torch.finfo().tiny)
