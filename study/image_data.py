"""Images and volumes of one size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label
from fedward.study.augmentation import Augmentation
from fedward.study.statistics import Measured, Range, summaries

Side = Annotated[int, Field(ge=1, le=4096)]


class ImageData(AnyData):
    """Images or volumes of one size.

    Attributes:
        shape: Channels, height, width; for volumes channels, depth, height, width.
        center: Subtracted from a pixel after its range became 0 to 1.
        scale: Divided by, after that.
        window: Middle and width of the range of values that becomes 0 to 1, in the unit of the
            files (Hounsfield units for CT); what is beyond counts as its end. If left out, the
            whole range of a file's integer type becomes 0 to 1.
        resize: `refuse` another size, or `fit`: scaled as a whole, padded with the lowest value.
        unreadable: What to do with a file that holds no image that can be read (damaged, or a plan
            or report among the images): `refuse`, or `drop` (counted, and named in the log and by
            `fedward data check`). A wrong label or size is never dropped.
        label: Column of the label in the hospital's table, or several.
        augmentation: How training records are varied; not at all if left out.
    """

    kind: Literal["images"]
    shape: (
        tuple[Annotated[int, Field(ge=1, le=16)], Side, Side]
        | tuple[Annotated[int, Field(ge=1, le=16)], Side, Side, Side]
    )
    center: float = 0.5
    scale: Annotated[float, Field(gt=0)] = 0.5
    window: tuple[float, Annotated[float, Field(gt=0)]] | None = None
    resize: Literal["refuse", "fit"] = "refuse"
    unreadable: Literal["refuse", "drop"] = "refuse"
    label: Label = "label"
    augmentation: Augmentation | None = None

    @model_validator(mode="after")
    def _sides_are_there(self) -> ImageData:
        terms = self.augmentation
        if terms is not None and "depth" in terms.flip and len(self.shape) == 3:
            raise ValueError("augmentation.flip along height and width only: images have no depth")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it."""
        return self.shape

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """What sums up each channel, in units of a pixel's range of 0 to 1."""
        names = [f"channel {n + 1}" if self.shape[0] > 1 else "" for n in range(self.shape[0])]
        return summaries(Range(name, 0.0, 1.0, self.center, self.scale) for name in names)
