"""A generative adversarial network of which only the discriminator sees records.

Goodfellow et al. 2014, in the federated form of Augenstein et al. 2020 ("Generative models for
effective ML on private, decentralized datasets", algorithms 1 and 2): hospitals train the
discriminator on their records and on pictures of the round's generator; the server, between rounds,
trains the generator against the discriminator that came of it (`server/generator_optimizer`), and
needs no record for that. With privacy on the discriminator is private, and so is the generator: it
is computed from nothing else (post-processing).

A record's loss joins the record and one picture made beside it, from a code that is drawn anew for
each. What a patient adds to a step is then still the clipped mean over his records, and with him go
the pictures that were made beside them. Everybody else's codes are as likely as before, so the
guarantee for given codes holds for drawn ones too, and whatever generator the server sends.
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.spatial import group_norm
from fedward.study.frozen import Frozen

_SLOPE = 0.2  # of the discriminator's rectifiers below 0, as in DCGAN (Radford et al. 2016)


class Settings(Frozen):
    """Size of both networks, and how the server trains the generator.

    Attributes:
        channels: Of the discriminator's blocks, each of which halves height and width; the
            generator has the same the other way round.
        code: Numbers that a picture is made from.
        generator_steps: Of the generator in one round.
        generator_batch: Pictures in a step.
        generator_learning_rate: Of its optimizer, Adam.
        average: Share that the rounds before keep, in each round, of the mean generator, which is
            the one that is judged and makes images at the end (Yazici et al. 2019): a generator by
            itself swings from round to round. 0 for the last round's.
    """

    channels: Annotated[tuple[Annotated[int, Field(ge=2, le=4096)], ...], Field(min_length=1)] = (
        32,
        64,
    )
    code: Annotated[int, Field(ge=1, le=65536)] = 32
    generator_steps: Annotated[int, Field(ge=1, le=100_000)] = 10
    generator_batch: Annotated[int, Field(ge=1, le=65536)] = 64
    generator_learning_rate: Annotated[float, Field(gt=0)] = 0.0005
    average: Annotated[float, Field(ge=0, lt=1)] = 0.95


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, channels, height, width), outputs (n, classes + 1 + numbers of a record).

    The generators' weights are there, travel to the hospitals, and are not trained by them.
    """
    return Gan(settings, inputs.shape, outputs)


class Gan(nn.Module):
    """Both networks.

    Attributes:
        discriminator: Pictures (n, *shape) to logits (n, classes): of being a record, if it is of
            that class.
        generator: Codes (n, code) and classes (n,) to pictures (n, *shape) between -1 and 1.
        mean_generator: The same, its weights a mean over rounds.
    """

    def __init__(self, settings: Settings, shape: tuple[int, ...], classes: int) -> None:
        """Make both.

        Args:
            settings: Of the study.
            shape: Channels, height and width.
            classes: 1 where pictures are of no class.
        """
        super().__init__()
        self.codes = Codes(settings.code, classes)
        self.discriminator = _discriminator(settings.channels, shape, classes)
        self.generator = _Generator(settings, shape, classes).requires_grad_(requires_grad=False)
        self.mean_generator = copy.deepcopy(self.generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the discriminator says of records and of as many pictures, and these pictures.

        In training they are the generator's, otherwise the mean generator's.

        Returns:
            For each class the logit of the record, then the logit of the picture made beside it as
            one of its own class, then the picture's numbers.
        """
        codes, kinds = self.codes(inputs)
        with torch.no_grad():
            made = (self.generator if self.training else self.mean_generator)(codes, kinds)
        real = self.discriminator(inputs)
        fake = self.discriminator(made).gather(1, kinds.unsqueeze(1))
        return torch.cat([real, fake, made.flatten(1)], dim=1)


class Codes(nn.Module):
    """What pictures are made from: drawn in training, and otherwise always the same."""

    def __init__(self, code: int, classes: int) -> None:
        """Say how many numbers a code has, and of how many classes pictures are."""
        super().__init__()
        self.code, self.classes = code, classes

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """A standard normal code and a class for each record, (n, code) and (n,) int64.

        Classes are as likely as each other: how often each is there is the hospitals' business.
        """
        count, device = len(inputs), inputs.device
        if not self.training:
            source = torch.Generator().manual_seed(0)
            codes = torch.randn(count, self.code, generator=source).to(inputs)
            return codes, torch.arange(count, device=device) % self.classes
        codes = torch.randn(count, self.code, dtype=inputs.dtype, device=device)
        return codes, torch.randint(self.classes, (count,), device=device)


class _Generator(nn.Module):
    def __init__(self, settings: Settings, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        colours, height, width = shape
        widths = settings.channels[::-1]
        halvings = 2 ** len(widths)
        self._size, self._classes = (height, width), classes
        self._low = (widths[0], -(-height // halvings), -(-width // halvings))
        told = settings.code + (classes if classes > 1 else 0)
        low = self._low[0] * self._low[1] * self._low[2]
        self.begin = nn.Linear(told, low)
        layers: list[nn.Module] = [group_norm(widths[0]), nn.ReLU()]
        for before, after in zip(widths, [*widths[1:], widths[-1]], strict=True):
            # Convolutions after plain enlargement leave no checkerboard (Odena et al. 2016).
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, kernel_size=3, padding=1),
                group_norm(after),
                nn.ReLU(),
            ]
        layers += [nn.Conv2d(widths[-1], colours, kernel_size=3, padding=1), nn.Tanh()]
        self.grow = nn.Sequential(*layers)

    def forward(self, codes: Tensor, kinds: Tensor) -> Tensor:
        if self._classes > 1:
            codes = torch.cat([codes, nn.functional.one_hot(kinds, self._classes).to(codes)], 1)
        made: Tensor = self.grow(self.begin(codes).unflatten(1, self._low))
        height, width = self._size
        return made[:, :, :height, :width]


def _discriminator(channels: tuple[int, ...], shape: tuple[int, ...], classes: int) -> nn.Module:
    before, height, width = shape
    layers: list[nn.Module] = []
    for number, after in enumerate(channels):
        layers.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1))
        if number:  # the first block sees how bright a picture is
            layers.append(group_norm(after))
        layers.append(nn.LeakyReLU(_SLOPE))
        before, height, width = after, -(-height // 2), -(-width // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * height * width, classes))


FAMILY = Family("gan", Settings, build, inputs=("image",), tasks=("generation",))
