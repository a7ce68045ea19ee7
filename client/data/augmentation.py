"""Training images that are varied each time they are in a step, a whole batch at once.

With privacy on nothing changes in what one patient can do: a record brings one varied copy to a
step, which takes its own place among the patient's at most K, and the copy's gradient is clipped as
the record's would be. Randomness is for variety, not for protection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedward.client.data.records import Records
from fedward.study.augmentation import Augmentation
from fedward.study.errors import MissingExtra
from fedward.study.image_data import ImageData
from fedward.study.study import Study
from fedward.study.task import SegmentationTask

_SIDES = {"depth": -3, "height": -2, "width": -1}


def varied(records: Records, study: Study, generator: torch.Generator) -> Records:
    """The training records, varied in each batch as the study says; themselves if it does not.

    Args:
        records: The training part.
        study: Says how.
        generator: Source of all variation, on the CPU: the same one gives the same copies.

    Raises:
        MissingExtra: Rotation needs MONAI, which is not installed.
    """
    data = study.data
    if not isinstance(data, ImageData) or data.augmentation is None:
        return records
    masks = isinstance(study.task, SegmentationTask)
    way = Variation(data.augmentation, data.scale, data.center, generator, masks=masks)
    return VariedRecords(
        records.inputs, records.labels, records.patients, records.people, variation=way
    )


class Variation:
    """One random change of each record of a batch."""

    def __init__(
        self,
        terms: Augmentation,
        scale: float,
        center: float,
        generator: torch.Generator,
        *,
        masks: bool,
    ) -> None:
        """Take the study's terms.

        Args:
            terms: How far each change may go.
            scale: That a pixel was divided by.
            center: That was subtracted before.
            generator: Source of the changes.
            masks: Whether labels are images too, which move with the records.
        """
        self._terms = terms
        self._scale, self._center = scale, center
        self._generator = generator
        self._masks = masks
        self._turn = _turning() if terms.rotation else None

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Varied copies; what is given is not changed.

        Args:
            inputs: Shape (n, channels, *size), scaled.
            labels: Of these records; shape (n, *size) where they are masks.
        """
        count = len(inputs)
        if not count:
            return inputs, labels
        for side in self._terms.flip:
            mirrored = self._uniform(count) < 0
            inputs = _mirrored(inputs, mirrored, _SIDES[side])
            labels = _mirrored(labels, mirrored, _SIDES[side]) if self._masks else labels
        if self._turn is not None:
            angles = self._uniform(count) * math.radians(self._terms.rotation)
            theta = _rotation(angles, inputs.shape[2:]).to(inputs.device)
            inputs = self._turn(inputs, theta, mode="bilinear")
            if self._masks:
                moved = self._turn(labels.unsqueeze(1).to(inputs.dtype), theta, mode="nearest")
                labels = moved.squeeze(1).to(labels.dtype)
        return self._shaded(inputs), labels

    def _shaded(self, inputs: Tensor) -> Tensor:
        """Contrast, brightness and noise, of pixels from 0 to 1."""
        terms, each = self._terms, (len(inputs), *(1,) * (inputs.ndim - 1))
        if terms.contrast:
            factor = 1 + terms.contrast * self._uniform(len(inputs)).view(each).to(inputs)
            zero = -self._center / self._scale  # where a pixel of 0 is
            inputs = (inputs - zero) * factor + zero
        if terms.brightness:
            more = terms.brightness / self._scale * self._uniform(len(inputs))
            inputs = inputs + more.view(each).to(inputs)
        if terms.noise:
            grain = torch.randn(inputs.shape, generator=self._generator)
            inputs = inputs + terms.noise / self._scale * grain.to(inputs)
        return inputs

    def _uniform(self, count: int) -> Tensor:
        """From -1 to 1, shape (count,)."""
        return 2 * torch.rand(count, generator=self._generator) - 1


@dataclass(frozen=True)
class VariedRecords(Records):
    """Records whose batches for training are varied; what is judged never comes as these.

    Attributes:
        variation: Of each batch.
    """

    variation: Variation = field(kw_only=True)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Varied inputs and labels of some records, on the device."""
        return self.variation(*super().batch(chosen))


def _mirrored(values: Tensor, which: Tensor, side: int) -> Tensor:
    each = which.view(len(values), *(1,) * (values.ndim - 1)).to(values.device)
    return torch.where(each, values.flip(side), values)


def _rotation(angles: Tensor, size: tuple[int, ...]) -> Tensor:
    """Matrices in the plane of the last two dimensions, shape (n, dimensions + 1, the same).

    Coordinates run from -1 to 1 between the middles of the outermost pixels, so that a rotation of
    pixels is stretched by how long the sides are.
    """
    theta = torch.eye(len(size) + 1).repeat(len(angles), 1, 1)
    row, column = len(size) - 2, len(size) - 1
    stretch = max(size[column] - 1, 1) / max(size[row] - 1, 1)
    theta[:, row, row] = theta[:, column, column] = angles.cos()
    theta[:, row, column] = -angles.sin() * stretch
    theta[:, column, row] = angles.sin() / stretch
    return theta


def _turning() -> Any:  # noqa: ANN401 - MONAI has no types
    """MONAI's affine transform of a whole batch, around the middle."""
    try:
        from monai.networks.layers import AffineTransform
    except ImportError as error:
        raise MissingExtra(
            f"rotation of images needs MONAI, which is not there ({error})",
            todo="pip install 'fedward[imaging]'",
        ) from None
    layer = AffineTransform(normalized=True, padding_mode="border", align_corners=True)

    def turn(values: Tensor, theta: Tensor, *, mode: str) -> Tensor:
        layer.mode = mode
        turned: Tensor = layer(values, theta.clone())  # which it changes
        return turned

    return turn
