"""How training images are varied, so that a model learns what stays the same."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen

Axis = Literal["depth", "height", "width"]


class Augmentation(Frozen):
    """Each time a record is in a step, one copy of it is varied at random and takes its place.

    What is judged is never varied. A pixel's numbers are those of its range from 0 to 1, before
    center and scale.

    Attributes:
        flip: Along which sides a record is mirrored, each in half of the cases.
        rotation: Largest angle in degrees, either way, in the plane of height and width; what comes
            in from beyond the edge is the edge.
        contrast: Pixels are multiplied with a factor from 1 - contrast to 1 + contrast.
        brightness: Added to all pixels of a record: a number from -brightness to brightness.
        noise: Standard deviation of normal noise in each pixel.
    """

    flip: tuple[Axis, ...] = ()
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _varies_something(self) -> Augmentation:
        if len(set(self.flip)) != len(self.flip):
            raise ValueError("each side in flip once")
        if not (self.flip or self.rotation or self.contrast or self.brightness or self.noise):
            raise ValueError("at least one of flip, rotation, contrast, brightness and noise")
        return self
