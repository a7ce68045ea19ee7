"""How finely a network computes. Parameters, losses and updates are float32 whatever it is.

With half the bits, products inside the network are quicker and need less memory; what the network
says is float32 again before anything is done with it. `float32` changes nothing, bit for bit.

In private steps too: the layers' gradients are put together in float32 for each record, and so are
norms, clipping and noise. `float16` has few exponents, so losses are scaled lest small gradients
vanish. Which of the scales is a patient's follows from that patient's own gradient, and so what he
adds depends on nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from opacus import GradSampleModule
from torch import Tensor, nn

Kind = Literal["float32", "bfloat16", "float16"]
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**16  # as PyTorch's own GradScaler begins
_SCALES = (2.0**12, 2.0**6, 1.0)  # smaller: losses are not divided by a batch's size here


@dataclass(frozen=True)
class Precision:
    """How finely a network's outputs are computed.

    Attributes:
        kind: Of the products inside it.
    """

    kind: Kind = "float32"

    @property
    def scales(self) -> tuple[float, ...]:
        """What private steps multiply losses by: the first with which a patient's is finite."""
        return _SCALES if self.kind == "float16" else (1.0,)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """What the network says, as float32, shape (n, classes)."""
        if self.kind == "float32":
            outputs: Tensor = model(inputs)
            return outputs
        with torch.autocast(inputs.device.type, dtype=_HALF[self.kind]):
            outputs = model(inputs)
        return outputs.float()

    def backward(self, loss: Tensor, parameters: Iterable[Tensor]) -> None:
        """Leave the gradient of a loss in the parameters' `grad`, which are empty before.

        With float16 the loss is scaled, so that small gradients do not vanish; with half the scale
        again where one overflows. No step is left out.
        """
        if self.kind != "float16":
            loss.backward()
            return
        trained, scale = list(parameters), _FIRST_SCALE
        while True:
            (loss * scale).backward(retain_graph=scale > 1)
            gradients = [p.grad for p in trained if p.grad is not None]
            if scale <= 1 or all(bool(g.isfinite().all()) for g in gradients):
                break
            scale /= 2
            for parameter in trained:
                parameter.grad = None
        for gradient in gradients:
            gradient.div_(scale)

    def apart(self, model: nn.Module) -> GradSampleModule:
        """Opacus' hooks, which keep the sum of losses' gradient apart for each record."""
        if self.kind == "float32":
            return GradSampleModule(model, loss_reduction="sum")
        return _InFloat32(model, loss_reduction="sum")


class _InFloat32(GradSampleModule):
    """Opacus' hooks for a network under autocast: they see float32 only.

    Opacus (1.6) puts a layer's inputs together with its outputs' gradients in the precision that
    these have; under autocast the norms, and so the bound on a patient, would have eight bits.
    """

    def capture_activations_hook(
        self, module: nn.Module, forward_input: list[Tensor], _forward_output: Tensor
    ) -> None:
        """Keep a layer's inputs."""
        whole = [t.float() if t.is_floating_point() else t for t in forward_input]
        super().capture_activations_hook(module, whole, _forward_output)

    def rearrange_grad_samples(
        self, *, module: nn.Module, backprops: Tensor, loss_reduction: str, batch_first: bool
    ) -> tuple[Tensor, Tensor]:
        """A layer's inputs and its outputs' gradients, as each record's gradients need them."""
        return super().rearrange_grad_samples(
            module=module,
            backprops=backprops.float(),
            loss_reduction=loss_reduction,
            batch_first=batch_first,
        )


FLOAT32 = Precision()
"""What everything computes in where nobody says otherwise."""
