"""Which networks can be trained privately; the others are refused before a record is touched."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedward.privacy.gradients.hooks import refuse_for_opacus
from fedward.privacy.gradients.known import ruled_layers
from fedward.privacy.gradients.source import Gradients
from fedward.privacy.privacy_errors import BufferWouldLeave, UntrainableLayer


def refuse_unprotected(model: nn.Module, gradients: Gradients = "fedward") -> None:
    """Accept a network by returning.

    Args:
        model: In training mode: nothing is kept apart where a model is only judged.
        gradients: Who will make them.

    Raises:
        UntrainableLayer: A layer mixes patients or keeps no gradient for each; it is named.
        BufferWouldLeave: It carries numbers that are no parameters, as running means are: they
            would leave with the update, and no noise is added to them.
    """
    if not model.training:
        raise UntrainableLayer("the model is not in training mode", todo="report this")
    for path, layer in model.named_modules():
        if fault := _fault(layer):
            raise UntrainableLayer(
                f"layer {path or 'model'!r}, {type(layer).__name__}, cannot be trained privately: "
                f"{fault}",
                todo="choose a model whose layers can be (see fedward models)",
            )
    if gradients == "opacus":
        refuse_for_opacus(model)
    else:
        list(ruled_layers(model))
    for path, buffer in model.named_buffers():
        if buffer.is_floating_point():
            raise BufferWouldLeave(
                f"the model's buffer {path!r} would leave without noise",
                todo="choose a model without running statistics (see fedward models)",
            )


def _fault(layer: nn.Module) -> str | None:
    """What is wrong with a layer whoever makes the gradients; None if nothing.

    A subclass is like what it comes from.
    """
    if isinstance(layer, _BatchNorm):  # without parameters too: it mixes what lies below it
        return "BatchNorm computes with all patients of a batch"
    if getattr(layer, "max_norm", None) is not None:  # frozen too: the table would leave
        return "max_norm changes rows that records look up, without noise"
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        return "it keeps running statistics of the records"
    return None
