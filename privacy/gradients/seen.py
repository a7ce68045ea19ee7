"""What a layer computed with, kept until its output's gradient comes."""

from __future__ import annotations

from torch import Tensor

from fedward.privacy.privacy_errors import UntrainableLayer


class Seen:
    """Tensors that a model may not change in the meantime; autograd minds its own only."""

    def __init__(self, *tensors: Tensor) -> None:
        """Keep them, not what they follow from."""
        self._tensors = [tensor.detach() for tensor in tensors]
        self._versions = [tensor._version for tensor in tensors]

    def again(self) -> list[Tensor]:
        """The same tensors, as they were.

        Raises:
            UntrainableLayer: One was changed in place.
        """
        if [tensor._version for tensor in self._tensors] != self._versions:
            raise UntrainableLayer(
                "what a layer has computed with is changed in place before its gradient comes",
                todo="choose a model that changes no layer's input in place",
            )
        return self._tensors
