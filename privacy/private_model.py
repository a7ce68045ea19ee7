"""Which networks can be trained privately; the others are refused before a record is touched."""

from __future__ import annotations

from opacus.validators import ModuleValidator
from torch import nn

from fedward.privacy.privacy_errors import BufferWouldLeave, UntrainableLayer


def refuse_unprotected(model: nn.Module) -> None:
    """Accept a network by returning.

    Args:
        model: In training mode: nothing is kept apart where a model is only judged.

    Raises:
        UntrainableLayer: A layer mixes patients or keeps no gradient for each; it is named.
        BufferWouldLeave: It carries numbers that are no parameters, as running means are: they
            would leave with the update, and no noise is added to them.
    """
    if not model.training:
        raise UntrainableLayer("the model is not in training mode", todo="report this")
    for path, layer in model.named_modules():
        trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        check = ModuleValidator.VALIDATORS.get(type(layer))
        if trained and check is not None and (faults := check(layer)):
            raise UntrainableLayer(
                f"layer {path or 'model'!r}, {type(layer).__name__}, cannot be trained privately: "
                f"{_first_sentence(str(faults[0]))}",
                todo="choose a model whose layers can be (see fedward models)",
            )
    for path, buffer in model.named_buffers():
        if buffer.is_floating_point():
            raise BufferWouldLeave(
                f"the model's buffer {path!r} would leave without noise",
                todo="choose a model without running statistics (see fedward models)",
            )


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".")
