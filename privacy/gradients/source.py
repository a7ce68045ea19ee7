"""Where the clipped sum of patients' gradients comes from: Fedward's engine, or Opacus' hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn

from fedward.privacy.gradients.bounds import Clipping
from fedward.privacy.precision import Precision
from fedward.privacy.privacy_errors import NoGradient
from fedward.privacy.steps import Loss

Gradients = Literal["fedward", "opacus"]
_COPIES = (2, 3)
_TRIED: WeakSet[nn.Module] = WeakSet()
"""Models of which one sum was made: each has the records in every layer's first dimension."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What goes forward and backward once.

    Attributes:
        loss: Of each record.
        inputs: Patient by patient, shape (n, ...).
        labels: Of the same records.
        counts: Records of each patient, in the same order, int64, on the CPU.
        wanted: Which patients are added up, shape (patients,), bool.
        scale: What losses are multiplied by, and gradients divided again; a power of 2.
    """

    loss: Loss
    inputs: Tensor
    labels: Tensor
    counts: Tensor
    wanted: Tensor
    scale: float = 1.0

    def total(self, outputs: Tensor) -> Tensor:
        """Sum over patients of the mean loss of their records, scaled."""
        losses = self.loss(outputs, self.labels)
        if int(self.counts.max()) > 1:
            losses = losses * self._shares().to(losses)
        return self.scale * losses.sum()

    def _shares(self) -> Tensor:
        """Of each record in the mean of its patient's, shape (n,)."""
        return self.counts.double().reciprocal().repeat_interleave(self.counts)


class ClippedSums(ABC):
    """The clipped sums of one model's passes."""

    def __init__(
        self, model: nn.Module, *, bound: float, clipping: Clipping, precision: Precision
    ) -> None:
        """Get a model ready.

        Args:
            model: In training mode. It is left as it is.
            bound: Largest L2 norm of one patient's gradient (C).
            clipping: How it is bounded.
            precision: How finely the network computes.

        Raises:
            UntrainableLayer: A layer cannot be trained privately; the message names it.
        """
        self._model = model
        self._bound, self._clipping, self._precision = bound, clipping, precision
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise NoGradient(
                "the model has no trainable parameter", todo="let one of its layers be trained"
            )
        self._layers = layers_of(model, self._parameters)

    def of(self, loss: Loss, inputs: Tensor, labels: Tensor, counts: Tensor) -> list[Tensor]:
        """The sum over patients of the clipped mean gradient of their records.

        Args:
            loss: Of each record.
            inputs: Patient by patient, shape (n, ...), n > 0.
            labels: Of the same records.
            counts: Records of each patient, in the same order, int64, on the CPU.

        Returns:
            Of each trainable parameter.

        Raises:
            NoGradient: A trainable parameter got no gradient for each record.
            NotPerRecord: What is kept apart in a layer are not records.
            HalfPrecision: It is kept apart with fewer bits than the parameters have.
        """
        if self._model not in _TRIED:
            self._try(loss, inputs[:1], labels[:1])
            _TRIED.add(self._model)
        return self._scaled(loss, inputs, labels, counts)

    def _scaled(self, loss: Loss, inputs: Tensor, labels: Tensor, counts: Tensor) -> list[Tensor]:
        """The sums, each patient's by the first scale with which his gradient is finite.

        One that is finite with none counts as zero. Every pass is of the whole batch: one of fewer
        records could fail where the first did not, and failing would tell who is in the data.
        """
        totals: list[Tensor] = []
        missing = torch.ones(len(counts), dtype=torch.bool, device=inputs.device)
        scales = self._precision.scales
        for scale in scales:
            own = inputs if len(scales) == 1 else inputs.clone()  # a model may change it in place
            sums, finite = self._sums(Pass(loss, own, labels, counts, missing, scale))
            pairs = zip(totals, sums, strict=True)
            totals = [total + more for total, more in pairs] if totals else sums
            missing = missing & ~finite
            if not missing.any():
                break
        return totals

    def _try(self, loss: Loss, inputs: Tensor, labels: Tensor) -> None:
        """Sums of as many copies of a record as `_COPIES` says, each of which is let go.

        A layer may have something else than the records in its first dimension, and just as much
        of it; it has not as much of it whatever their number.
        """
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout draws what it would have drawn
            for copies in _COPIES:
                some, named = (rows.repeat_interleave(copies, dim=0) for rows in (inputs, labels))
                counts = torch.ones(copies, dtype=torch.int64)
                everybody = torch.ones(copies, dtype=torch.bool, device=inputs.device)
                with suppress(NoGradient):  # one record may pass a layer by that others need
                    self._sums(Pass(loss, some, named, counts, everybody))

    @abstractmethod
    def _sums(self, one: Pass) -> tuple[list[Tensor], Tensor]:
        """The sums of one pass, and which patients' gradients are finite, shape (patients,)."""


def layers_of(model: nn.Module, parameters: list[nn.Parameter]) -> list[list[int]]:
    """Places of the parameters that belong to one layer; one that two layers share is the first's.

    Args:
        model: Whose they are.
        parameters: The trainable ones.
    """
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    found = []
    for module in model.modules():
        own = [places.pop(id(p)) for p in module.parameters(recurse=False) if id(p) in places]
        if own:
            found.append(own)
    return found


def dtype_of(parameters: list[nn.Parameter]) -> torch.dtype:
    """In which norms and sums are computed: the least precise of the parameters'."""
    return max((p.dtype for p in parameters), key=lambda dtype: torch.finfo(dtype).eps)
