"""Images and volumes of one size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedward.study.any_data import AnyData


class ImageData(AnyData):
    """Images of one size.

    Attributes:
        shape: Channels, height, width.
        center: Subtracted from a pixel after its full range became 0 to 1.
        scale: Divided by, after that.
    """

    kind: Literal["images"]
    shape: tuple[
        Annotated[int, Field(ge=1, le=16)],
        Annotated[int, Field(ge=1, le=4096)],
        Annotated[int, Field(ge=1, le=4096)],
    ]
    center: float = 0.5
    scale: Annotated[float, Field(gt=0)] = 0.5

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it."""
        return self.shape
