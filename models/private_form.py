"""The form of a network in which it can be trained privately.

Server and hospitals make it alike, from the study alone. Opacus' validator (1.6) knows what takes
the place of what: group for batch normalisation. A layer of one's own that comes from a
normalisation and computes the same is replaced like it. Recurrent layers and attention stay what
they are: `fedward.privacy.gradients` has rules for them.
"""

from __future__ import annotations

import copy
import logging

from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_LOG = logging.getLogger("fedward.models")

_REPLACED = {
    kind: fixer
    for kind, fixer in ModuleValidator.FIXERS.items()
    if not issubclass(kind, nn.RNNBase | nn.MultiheadAttention)
}


def private_form(model: nn.Module) -> nn.Module:
    """The same network, with what private training cannot take replaced where that is possible.

    What cannot be replaced is left: `fedward.privacy` refuses it by name. Operations in place are
    turned off, because they overwrite what a record's own gradient is computed from.

    Args:
        model: It is not changed.
    """
    private = copy.deepcopy(model)
    for path, layer in list(private.named_modules()):
        if getattr(layer, "inplace", False):
            layer.inplace = False
        kind = _kind(layer)
        if kind not in _REPLACED:
            continue
        new = _REPLACED[kind](layer)
        if isinstance(new, _InstanceNorm):  # Opacus' goes on filling them
            new.running_mean = new.running_var = new.num_batches_tracked = None
        if new is not layer:
            private.set_submodule(path, new)
            was, now = type(layer).__name__, type(new).__name__
            _LOG.info("layer %r: %s in the place of %s, for privacy", path, now, was)
    return private


def _kind(layer: nn.Module) -> type[nn.Module]:
    """Which of PyTorch's layers it is; its own class where it may compute something else."""
    if isinstance(layer, _BatchNorm | _InstanceNorm):
        computes = type(layer).forward
        for kind in type(layer).__mro__:
            if kind in _REPLACED and issubclass(kind, nn.Module) and kind.forward is computes:
                return kind
    return type(layer)
