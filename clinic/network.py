"""A finished run's network as others are to call it: named inputs, and which sizes are free."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedward.models.gan import Gan
from fedward.models.inputs import inputs_of
from fedward.study.study import Study


class Network(NamedTuple):
    """What is exported.

    Attributes:
        module: Takes the arguments, gives the outputs.
        names: Of its arguments.
        free_length: Whether records may have another length than the study's.
        longest: The most steps of a record; None for no bound.
    """

    module: nn.Module
    names: tuple[str, ...]
    free_length: bool
    longest: int | None

    def arguments(self, records: Tensor) -> tuple[Tensor, ...]:
        """What the module is called with for so many records.

        Args:
            records: Shape (n, *input_shape); of a generator only their number matters.
        """
        if isinstance(self.module, _Pictures):
            return self.module.arguments(records)
        return (records,)


def network_of(model: nn.Module, study: Study) -> Network:
    """A run's network; of a generative one what makes pictures.

    Args:
        model: Judging.
        study: Says what a record is.
    """
    if isinstance(model, Gan):
        module = _Pictures(model)
        names = ("codes", "classes") if model.codes.classes > 1 else ("codes",)
        return Network(module.eval(), names, free_length=False, longest=None)
    inputs = inputs_of(study.data)
    free, longest, length = False, None, inputs.shape[-1]
    if inputs.kind in {"signal", "tokens", "pieces"} and length > 1:
        example = torch.ones(1, *inputs.shape)
        example = example.long() if inputs.kind != "signal" else example
        free = _takes(model, example[..., : length - 1])
        longest = None if free and _takes(model, example.repeat_interleave(2, dim=-1)) else length
    return Network(model, ("inputs",), free, longest)


@torch.inference_mode()
def _takes(model: nn.Module, example: Tensor) -> bool:
    """Whether a network has an answer for a record of this length: the layers know, and say so."""
    try:
        model(example)
    except (RuntimeError, IndexError):
        return False
    return True


class _Pictures(nn.Module):
    """The generator: codes (n, code), and classes (n,) where pictures are of classes."""

    def __init__(self, gan: Gan) -> None:
        super().__init__()
        self.generator = gan.mean_generator
        self._codes = gan.codes

    def forward(self, codes: Tensor, classes: Tensor | None = None) -> Tensor:
        pictures: Tensor = self.generator(codes, classes)
        return pictures

    def arguments(self, records: Tensor) -> tuple[Tensor, ...]:
        codes, classes = self._codes(records)
        return (codes, classes) if self._codes.classes > 1 else (codes,)
