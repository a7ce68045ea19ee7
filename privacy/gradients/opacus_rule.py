"""A layer that the engine has no rule for: Opacus (1.6) makes its gradients for each record."""

from __future__ import annotations

from collections.abc import Iterator

from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedward.privacy.gradients.rule import Watched
from fedward.privacy.gradients.uses import Formed, Use


class OpacusRule(Watched):
    """Opacus' own rule for a kind of layer, or the layer and all in it by `torch.func`."""

    kinds = ()

    def prepare(self, layer: nn.Module) -> None:
        """Get a layer ready, once.

        Raises:
            NotImplementedError: Opacus cannot either.
        """
        if type(layer) not in GradSampleModule.GRAD_SAMPLERS:
            prepare_layer(layer)  # type: ignore[no-untyped-call]

    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        """Of all parameters of the layer and of what is in it."""
        sampler = GradSampleModule.GRAD_SAMPLERS.get(type(layer), ft_compute_per_sample_gradient)
        for parameter, apart in sampler(layer, [inputs], gradient).items():
            yield parameter, Formed(apart)


def opacus_fault(layer: nn.Module) -> str | None:
    """Why Opacus cannot keep a layer's gradients apart, or None."""
    if not any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
        return None
    if isinstance(layer, nn.EmbeddingBag | nn.LSTMCell):
        return "it has no one output for each record's input"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return "its rule takes the padding for zeros"
    if getattr(layer, "padding_idx", None) is not None:
        return "its rule gives the row of padding_idx a gradient"
    checks = (ModuleValidator.VALIDATORS.get(kind) for kind in type(layer).__mro__)
    check = next((check for check in checks if check is not None), None)
    faults = check(layer) if check is not None else []
    return str(faults[0]).split(". ")[0].rstrip(".") if faults else None
