"""What a family of models is: what it takes and learns, and how a network is built from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedward.models.inputs import Inputs, Kind
from fedward.study.frozen import Frozen

if TYPE_CHECKING:
    from torch import nn
LABELLED = ("binary", "multiclass", "multilabel", "regression", "survival")
"""Tasks in which a record has a few numbers for an answer."""


@dataclass(frozen=True)
class Family:
    """One entry of the registry.

    Attributes:
        name: What a study calls it.
        settings: Its keys in the study's `[model]`, with their defaults and bounds.
        build: Makes the network from its settings, what one record is, and the outputs.
        inputs: Kinds of records that it takes.
        tasks: Kinds of tasks that it learns.
        private: Whether it can be trained with privacy on.
    """

    name: str
    settings: type[Frozen]
    build: Callable[[Any, Inputs, int], nn.Module]
    inputs: tuple[Kind, ...]
    tasks: tuple[str, ...] = LABELLED
    private: bool = True
