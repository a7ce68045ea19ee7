"""How one step's gradient is made: plainly here, privately in `patient_steps`.

Both are the same kind of object to the training loop: it says which records are in each step, and
leaves the gradient of a step in the parameters. "No privacy" is an object too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedward.privacy.precision import FLOAT32, Precision

Loss = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """The records of one step.

    Attributes:
        records: Their indices, int64.
        patients: Numbers of their patients, int64.
    """

    records: Tensor
    patients: Tensor


class LocalSteps(ABC):
    """The steps of one round at one hospital."""

    @abstractmethod
    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Get ready to train this model, and return the module to call for its outputs."""

    @abstractmethod
    def batches(self, patients: Tensor) -> Iterator[Batch]:
        """The records of each step.

        Args:
            patients: Number of each record's patient, shape (n,), int64.
        """

    @abstractmethod
    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor, patients: Tensor) -> None:
        """Leave the gradient of one step in the parameters' `grad`.

        Args:
            loss: Of each record.
            inputs: Of the step's records, in the order of its batch.
            labels: Of the same records.
            patients: Of the same records.
        """

    @abstractmethod
    def finish(self) -> None:
        """Called after the last step, before anything leaves; raises what was not as planned."""


@dataclass
class PlainSteps(LocalSteps):
    """Ordinary mini-batches: the records in a new order in each pass.

    Attributes:
        batch_size: Records in a step; the last of a pass may have fewer. None for all of them.
        epochs: Passes, or None where `steps` counts.
        steps: Steps in all, or None where `epochs` counts.
        generator: Source of the order.
        precision: How finely the network computes.
    """

    batch_size: int | None
    epochs: int | None
    steps: int | None
    generator: torch.Generator
    precision: Precision = FLOAT32

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Plain steps need nothing of the model."""
        self._model, self._optimizer = model, optimizer
        return model

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        """The records of each step, until the passes or steps are done."""
        records = len(patients)
        size = self.batch_size or records
        passes = self.epochs or -(-(self.steps or 0) * size // records)
        left = self.steps
        for _ in range(passes):
            for batch in torch.randperm(records, generator=self.generator).split(size):
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield Batch(batch, patients)

    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor, patients: Tensor) -> None:
        """Gradient of the batch's mean loss; it does not matter whose records these are."""
        self._optimizer.zero_grad()
        outputs = self.precision.outputs(self._model, inputs)
        self.precision.backward(loss(outputs, labels).mean(), self._model.parameters())

    def finish(self) -> None:
        """Nothing was promised."""
