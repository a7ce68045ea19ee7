"""How one step's gradient is made: plainly, or privately by DP-SGD.

Both are the same kind of object to the training loop: it says which records are in each step, and
leaves the gradient of a step in the parameters. "No privacy" is an object too.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.optim import Optimizer

from fedward.study.errors import TrainingError

Loss = Callable[[Tensor, Tensor], Tensor]


class LocalSteps(ABC):
    """The steps of one round at one hospital."""

    @abstractmethod
    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Get ready to train this model, and return the module to call for its outputs."""

    @abstractmethod
    def batches(self, records: int) -> Iterator[Tensor]:
        """Indices of the records of each step, int64, in [0, records)."""

    @abstractmethod
    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor) -> None:
        """Leave the gradient of one step in the parameters' `grad`."""


@dataclass
class PlainSteps(LocalSteps):
    """Ordinary mini-batches: the records in a new order in each pass.

    Attributes:
        batch_size: Records in a step; the last of a pass may have fewer. None for all of them.
        epochs: Passes, or None where `steps` counts.
        steps: Steps in all, or None where `epochs` counts.
        generator: Source of the order.
    """

    batch_size: int | None
    epochs: int | None
    steps: int | None
    generator: torch.Generator

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Plain steps need nothing of the model."""
        self._model, self._optimizer = model, optimizer
        return model

    def batches(self, records: int) -> Iterator[Tensor]:
        """Indices of each step, until the passes or steps are done."""
        size = self.batch_size or records
        passes = self.epochs or -(-(self.steps or 0) * size // records)
        left = self.steps
        for _ in range(passes):
            for batch in torch.randperm(records, generator=self.generator).split(size):
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield batch

    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor) -> None:
        """Gradient of the batch's mean loss."""
        self._optimizer.zero_grad()
        loss(self._model(inputs), labels).mean().backward()


@dataclass
class PrivateSteps(LocalSteps):
    """DP-SGD (Abadi et al. 2016, algorithm 1), with Opacus' per-sample gradients.

    Every record is in a step with the same probability, independently (Poisson); its gradient is
    clipped; the sum gets noise and is divided by a constant that does not depend on the batch. An
    empty batch still makes a step, of noise only.

    Attributes:
        noise_multiplier: Standard deviation of the noise in units of `clipping_norm`.
        clipping_norm: Largest L2 norm of one record's gradient.
        sampling_rate: Probability of a record in a step.
        divisor: Public constant that the noisy sum is divided by.
        steps: Steps of this round, as charged.
        sampling: Source of the samples.
        noise: Source of the noise; on the model's device.
    """

    noise_multiplier: float
    clipping_norm: float
    sampling_rate: float
    divisor: float
    steps: int
    sampling: torch.Generator
    noise: torch.Generator

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Hook the model, so that every record's gradient is kept apart.

        Raises:
            TrainingError: A layer cannot be trained privately; the message names it.
        """
        if faults := ModuleValidator.validate(model, strict=False):
            raise TrainingError(
                f"the model cannot be trained privately: {faults[0]}",
                todo="choose a model without batch normalisation (see fedward models)",
            )
        # The first layer's input needs no gradient: PyTorch warns, Opacus copes.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        self._model = GradSampleModule(model, loss_reduction="sum")
        self._optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.clipping_norm,
            expected_batch_size=None,
            loss_reduction="sum",
            generator=self.noise,
        )
        return model

    def batches(self, records: int) -> Iterator[Tensor]:
        """Poisson samples; some may be empty."""
        for _ in range(self.steps):
            chosen = torch.rand(records, generator=self.sampling) < self.sampling_rate
            yield chosen.nonzero().flatten()

    def gradient(self, loss: Loss, inputs: Tensor, labels: Tensor) -> None:
        """Clipped sum over records, plus noise, over the divisor.

        Raises:
            TrainingError: A trainable parameter got no per-record gradient, so that it would be
                trained without protection or not at all.
        """
        self._optimizer.zero_grad()
        trainable = [p for p in self._model.parameters() if p.requires_grad]
        if len(inputs):
            loss(self._model(inputs), labels).sum().backward()
        else:
            for parameter in trainable:
                vars(parameter)["grad_sample"] = parameter.new_zeros((0, *parameter.shape))
        if any(getattr(p, "grad_sample", None) is None for p in trainable):
            raise TrainingError(
                "a trainable parameter has no per-record gradient",
                todo="freeze it or choose a model whose every layer takes part in its output",
            )
        self._optimizer.pre_step()
        for parameter in trainable:
            if parameter.grad is not None:
                parameter.grad.div_(self.divisor)
