"""What of a model travels, and what stays at each hospital: from the study alone, on both sides."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedward.models import flat
from fedward.study.aggregation import FedBN, FedPer
from fedward.study.errors import StudyError
from fedward.study.study import Study

_NORMALISATION = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # batch, instance and others


def travelling(study: Study, model: nn.Module) -> tuple[str, ...]:
    """Names of the entries of the flat vector that hospitals and aggregator send each other.

    Args:
        study: Its strategy says what stays.
        model: The study's network.

    Raises:
        StudyError: Nothing would travel.
    """
    terms = study.aggregation
    if isinstance(terms, FedBN):
        own = normalisation(model)
    elif isinstance(terms, FedPer):
        own = head(model, terms.head_layers)
    else:
        return flat.names(model)
    found = tuple(name for name in flat.names(model) if _layer(name) not in own)
    if not found:
        raise StudyError(
            "aggregation.strategy",
            given=f'"{terms.strategy}", with a model of which all weights would stay at home',
            allowed="fewer head_layers, a model with other layers too, or another strategy",
        )
    return found


def normalisation(model: nn.Module) -> frozenset[str]:
    """Paths of the normalisation layers, whose weights and running statistics are FedBN's own."""
    return frozenset(
        path for path, layer in model.named_modules() if isinstance(layer, _NORMALISATION)
    )


def head(model: nn.Module, layers: int) -> frozenset[str]:
    """Paths of the last layers with parameters that travel, in the order of their registration.

    A pretrained body that stays as it is has no part in it: everybody has it already.

    Args:
        model: The study's network; every family registers what gives its outputs last.
        layers: How many, at least 0.
    """
    moving = {_layer(name) for name in flat.names(model)}
    paths = [
        path
        for path, layer in model.named_modules()
        if path in moving and [*layer.parameters(recurse=False)]
    ]
    return frozenset(paths[max(len(paths) - layers, 0) :])


def _layer(name: str) -> str:
    """Path of the layer that an entry of the state dict belongs to."""
    return name.rpartition(".")[0]
