"""What a family of models is: what it takes and learns, and how a network is built from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedward.models.inputs import Kind
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
        extra: Of Fedward's extras that it needs; None for none.
        pretrained: Whether it begins with a model of the machine's own folder of models: the study
            gives its digest as setting `pretrained`, and `build` is given its folder, too.
    """

    name: str
    settings: type[Frozen]
    build: Callable[..., nn.Module]
    inputs: tuple[Kind, ...]
    tasks: tuple[str, ...] = LABELLED
    private: bool = True
    extra: str | None = None
    pretrained: bool = False
