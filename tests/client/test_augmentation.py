"""Training images that are varied: against MONAI's own transforms, record by record."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from fedward.client.data.augmentation import VariedRecords, varied
from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.client.training import train
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.privacy.steps import PlainSteps
from fedward.study.errors import MissingExtra, StudyError
from fedward.study.study import Study
from tests.privacy.private_networks import private

StudyWith = Callable[[Mapping[str, object]], Study]
CENTER, SCALE, COUNT = 0.4, 0.25, 24
SHAPES = {"image": (2, 9, 12), "volume": (1, 5, 9, 12)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_study(study_with: StudyWith, shape: tuple[int, ...], **terms: object) -> Study:
    images = {"kind": "images", "shape": list(shape), "center": CENTER, "scale": SCALE}
    data = images | ({"augmentation": terms} if terms else {})
    return study_with({"model": {"name": "linear"}, "data": data})


def a_mask_study(study_with: StudyWith, **terms: object) -> Study:
    images = {"kind": "images", "shape": [2, 9, 12], "label": "mask", "augmentation": terms}
    task = {"kind": "segmentation", "classes": ["rest", "lung", "heart"]}
    return study_with({"task": task, "model": {"name": "unet"}, "data": images})


def records(shape: tuple[int, ...]) -> Records:
    inputs = (torch.rand(COUNT, *shape, generator=seeded(1)) - CENTER) / SCALE
    labels = torch.arange(COUNT) % 2
    return Records(inputs, labels, torch.arange(COUNT))


def copies(study: Study, given: Records, seed: int = 0) -> tuple[Tensor, Tensor]:
    return varied(given, study, seeded(seed)).batch(torch.arange(len(given)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_flips_are_monai_s_and_each_comes_in_about_half_of_the_cases(
    shape: tuple[int, ...], study_with: StudyWith
) -> None:
    transforms = pytest.importorskip("monai.transforms")
    sides = {"height": len(shape) - 3, "width": len(shape) - 2}
    given = records(shape)

    found, labels = copies(a_study(study_with, shape, flip=list(sides)), given)

    seen = []
    for before, after in zip(given.inputs[:], found, strict=True):
        ways = {(): before} | {
            axes: transforms.Flip(spatial_axis=axes)(before).as_tensor()
            for axes in ((sides["height"],), (sides["width"],), tuple(sides.values()))
        }
        (way,) = [axes for axes, flipped in ways.items() if torch.equal(flipped, after)]
        seen.append(way)
    assert len(set(seen)) == 4
    assert all(seen.count(way) < COUNT / 2 for way in set(seen))
    assert torch.equal(labels, given.whole_labels)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rotation_is_monai_s_within_the_angle(
    shape: tuple[int, ...], study_with: StudyWith
) -> None:
    transforms = pytest.importorskip("monai.transforms")
    given = records(shape)

    found, _ = copies(a_study(study_with, shape, rotation=30), given, seed=5)

    angles = (2 * torch.rand(COUNT, generator=seeded(5)) - 1) * math.radians(30)
    assert angles.abs().max() > math.radians(20)
    for before, after, angle in zip(given.inputs[:], found, angles.tolist(), strict=True):
        whole = angle if len(shape) == 3 else (angle, 0.0, 0.0)
        turned = transforms.Rotate(
            whole, keep_size=True, padding_mode="border", align_corners=True, dtype=np.float32
        )(before)
        assert torch.allclose(turned.as_tensor(), after, atol=1e-4)


def test_contrast_and_brightness_are_of_pixels_from_0_to_1(study_with: StudyWith) -> None:
    given = records(SHAPES["image"])
    pixels = given.inputs[:] * SCALE + CENTER

    contrast, _ = copies(a_study(study_with, SHAPES["image"], contrast=0.3), given)
    bright, _ = copies(a_study(study_with, SHAPES["image"], brightness=0.2), given)

    factors = ((contrast * SCALE + CENTER) / pixels).flatten(1)
    more = (bright * SCALE + CENTER - pixels).flatten(1)
    for values, middle, most in ((factors, 1.0, 0.3), (more, 0.0, 0.2)):
        each = values.median(dim=1).values - middle
        assert torch.allclose(values, values.median(dim=1, keepdim=True).values, atol=1e-3)
        assert 0.8 * most < each.abs().max() <= most + 1e-4
        assert each.min() < 0 < each.max()


def test_noise_has_its_deviation_and_is_each_pixel_s_own(study_with: StudyWith) -> None:
    given = records(SHAPES["image"])
    found, _ = copies(a_study(study_with, SHAPES["image"], noise=0.1), given)

    noise = (found - given.inputs[:]) * SCALE
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("terms", [{"flip": ["width", "height"]}, {"rotation": 40}])
def test_masks_move_with_their_images(terms: dict[str, object], study_with: StudyWith) -> None:
    pytest.importorskip("monai")
    masks = torch.zeros(COUNT, 9, 12, dtype=torch.int64)
    masks[:, 1:5, 2:6], masks[:, 5:8, 7:11] = 1, 2
    images = torch.stack([(masks == 1).float(), (masks == 2).float()], dim=1)

    inputs, labels = copies(
        a_mask_study(study_with, **terms), Records(images, masks, torch.arange(COUNT))
    )

    assert labels.dtype == torch.int64
    assert not torch.equal(labels, masks)
    sure = (inputs > 0.75) | (inputs < 0.25)  # away from edges, which are smoothed
    for channel, number in ((0, 1), (1, 2)):
        here = sure[:, channel]
        assert torch.equal((labels == number)[here], (inputs[:, channel] > 0.5)[here])


ALL: dict[str, object] = {
    **{"flip": ["width"], "rotation": 10, "contrast": 0.2, "brightness": 0.1, "noise": 0.05}
}


def test_the_same_generator_gives_the_same_copies_and_another_does_not(
    study_with: StudyWith,
) -> None:
    pytest.importorskip("monai")
    study, given = a_study(study_with, SHAPES["image"], **ALL), records(SHAPES["image"])
    before = given.inputs[:].clone()

    one, again, other = (copies(study, given, seed)[0] for seed in (1, 1, 2))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(given.inputs[:], before)  # the records themselves stay


def test_each_time_is_another_copy_and_judging_sees_none(study_with: StudyWith) -> None:
    study, given = a_study(study_with, SHAPES["image"], noise=0.5), records(SHAPES["image"])
    shown, everybody = varied(given, study, seeded()), torch.arange(COUNT)
    model, task = build(study, seed=0), task_of(study)

    assert not torch.equal(shown.batch(everybody)[0], shown.batch(everybody)[0])
    judged = metric_sums(model, shown, task)
    assert judged.tolist() == metric_sums(model, given, task).tolist()


def test_a_study_without_it_has_the_records_themselves(study_with: StudyWith) -> None:
    given = records(SHAPES["image"])
    assert varied(given, a_study(study_with, SHAPES["image"]), seeded()) is given


def test_private_steps_take_varied_records_and_bound_each_patient_as_ever(
    study_with: StudyWith,
) -> None:
    """One copy for each record, an empty batch too; a patient moves the model no further."""
    pytest.importorskip("monai")
    terms = {"training.local_epochs": None, "training.local_steps": 1, "training.learning_rate": 1}
    images = {"kind": "images", "shape": [2, 9, 12], "augmentation": ALL}
    study = study_with({"model": {"name": "linear"}, "data": images, **terms})
    inputs = torch.randn(3, 2, 9, 12, generator=seeded())
    one = Records(inputs, torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    shown = varied(one, study, seeded())
    assert isinstance(shown, VariedRecords)
    model = build(study, seed=0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])

    train(model, shown, study, task_of(study), private(clipping_norm=0.01, records_per_patient=2))

    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0.0099 < float((after - before).norm()) <= 0.0100001
    assert len(shown.batch(torch.arange(0))[0]) == 0


def test_training_sees_the_copies(study_with: StudyWith) -> None:
    study, given = a_study(study_with, SHAPES["image"], noise=0.5), records(SHAPES["image"])
    models = []
    for shown in (given, varied(given, study, seeded())):
        model = build(study, seed=0)
        train(model, shown, study, task_of(study), PlainSteps(8, 1, None, seeded()))
        models.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    plain, augmented = models
    assert not torch.allclose(plain, augmented, atol=1e-3)


def test_without_monai_rotation_is_one_line(
    study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks.layers", None)
    study = a_study(study_with, SHAPES["image"], rotation=5)
    with pytest.raises(MissingExtra, match=r"pip install 'fedward\[imaging\]'"):
        varied(records(SHAPES["image"]), study, seeded())


@pytest.mark.parametrize(
    "terms", [{"flip": []}, {"flip": ["depth"]}, {"flip": ["width", "width"]}, {"rotation": 181}]
)
def test_what_varies_nothing_or_too_much_is_refused(
    terms: dict[str, object], study_with: StudyWith
) -> None:
    with pytest.raises(StudyError, match="augmentation"):
        a_study(study_with, SHAPES["image"], **terms)


def test_only_what_is_asked_for_is_in_the_digest(study_with: StudyWith) -> None:
    plain = a_study(study_with, SHAPES["image"])
    assert "augmentation" not in plain.canonical().decode()
    assert a_study(study_with, SHAPES["image"], noise=0.1).digest() != plain.digest()
