"""What a family of models is: its settings, and how a network is built from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedward.study.frozen import Frozen

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Family:
    """One entry of the registry.

    Attributes:
        name: What a study calls it.
        settings: Its keys in the study's `[model]`, with their defaults and bounds.
        build: Makes the network from its settings, the shape of one record, and the outputs.
        inputs: How many dimensions one record must have, and what they are called.
    """

    name: str
    settings: type[Frozen]
    build: Callable[[Any, tuple[int, ...], int], nn.Module]
    inputs: tuple[str, ...]
