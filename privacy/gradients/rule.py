"""What the engine knows about a kind of layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from fedward.privacy.gradients.seen import Seen
from fedward.privacy.gradients.tape import Tape, Written, detached
from fedward.privacy.gradients.uses import Use
from fedward.privacy.privacy_errors import NotPerRecord, UntrainableLayer


class Rule(ABC):
    """How one kind of layer is computed so that its uses are written down.

    Attributes:
        kinds: Layers that it is for, and what comes from them and computes the same.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]]

    def fault(self, layer: nn.Module) -> str | None:
        """Why this layer cannot be trained privately, or None."""
        return None

    @abstractmethod
    def forward(self, layer: nn.Module, tape: Tape, *inputs: Any, **named: Any) -> Any:  # noqa: ANN401
        """What the layer's own `forward` returns, with its parameters detached and watched."""


class Watched(Rule):
    """A layer with one input and one output, computed by its own `forward`."""

    def forward(self, layer: nn.Module, tape: Tape, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The layer's output."""
        taken = [*inputs, *named.values()]
        if len(taken) != 1:
            raise UntrainableLayer(
                f"a {type(layer).__name__} is called with {len(taken)} arguments",
                todo="choose a model whose layers take one",
            )
        seen = Seen(taken[0])
        with detached(layer):
            output: Tensor = type(layer).forward(layer, *inputs, **named)
        return tape.watch(
            output, layer.parameters(), lambda gradient: self._written(layer, seen, gradient)
        )

    def _written(self, layer: nn.Module, seen: Seen, gradient: Tensor) -> Written:
        (inputs,) = seen.again()
        if gradient.ndim < 2 or inputs.ndim < 1 or len(inputs) != len(gradient):
            raise NotPerRecord(
                f"a {type(layer).__name__} does not see one entry for each record",
                todo="choose a model whose every layer keeps the records in its first dimension",
            )
        precise = next(layer.parameters()).dtype
        if inputs.is_floating_point():
            inputs = inputs.to(precise)
        return self.uses(layer, inputs, gradient.to(precise))

    @abstractmethod
    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        """The uses of the layer's parameters, frozen ones too if that is simpler.

        Args:
            layer: Of one of the kinds.
            inputs: What it saw, shape (n, ...), as precise as its parameters.
            gradient: Of its output, shape (n, ...), as precise.
        """
