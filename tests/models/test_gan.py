"""A GAN: what the hospital's loss is, whose gradient is whose, and what the distance measures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fedward.models.gan import Codes, Gan
from fedward.models.picture_features import NUMBERS, features
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import ClippedSums
from fedward.privacy.precision import FLOAT32
from fedward.study.errors import StudyError
from fedward.study.study import Study
from tests.models.small_families import PRIVATE

StudyWith = Callable[[Mapping[str, object]], Study]
Values = dict[str, Any]

CLASSES = ["low", "high"]
IMAGES: Values = {"kind": "images", "shape": [1, 9, 7]}


def made(study_with: StudyWith, classes: list[str], **tables: Values) -> tuple[Study, Gan]:
    study = study_with(
        {
            "task": {"kind": "generation", "classes": classes},
            "model": {"name": "gan", "channels": [4, 6], "code": 3},
            "data": IMAGES | {"label": "label" if classes else []},
            **tables,
        }
    )
    network = build(study, seed=1)
    assert isinstance(network, Gan)
    return study, network


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 9, 7, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("classes", [[], CLASSES])
def test_the_loss_is_the_discriminator_s_of_a_record_and_of_a_picture(
    study_with: StudyWith, classes: list[str]
) -> None:
    study, network = made(study_with, classes)
    task, inputs = task_of(study), pictures(6)
    labels = torch.tensor([0, 1, 1, 0, 1, 0]) if classes else torch.zeros(6, 0)
    network.train()

    torch.manual_seed(5)
    outputs = network(inputs)
    loss = task.loss(outputs, task.truth(inputs, labels))

    torch.manual_seed(5)
    codes, kinds = network.codes(inputs)
    rows = torch.arange(6)
    said_of_records = network.discriminator(inputs).sigmoid()
    said_of_pictures = network.discriminator(network.generator(codes, kinds)).sigmoid()
    real = said_of_records[rows, labels if classes else 0]
    expected = -real.log() - (1 - said_of_pictures[rows, kinds]).log()
    torch.testing.assert_close(loss, expected)
    assert {int(kind) for kind in kinds} == ({0, 1} if classes else {0})


def test_only_the_discriminator_is_trained_by_hospitals(study_with: StudyWith) -> None:
    _, network = made(study_with, CLASSES)

    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}

    assert trained == {"discriminator"}


def test_codes_are_drawn_in_training_and_the_same_otherwise() -> None:
    codes, beside = Codes(4, 3), torch.zeros(5, 1)

    torch.manual_seed(0)
    first, second = codes(beside), codes(beside)
    assert not torch.equal(first[0], second[0])
    codes.eval()
    one, two = codes(beside), codes(beside)
    assert torch.equal(one[0], two[0])
    assert one[1].tolist() == [0, 1, 2, 0, 1]


def test_the_mean_generator_s_pictures_are_judged(study_with: StudyWith) -> None:
    _, network = made(study_with, [])
    with torch.no_grad():
        network.mean_generator.begin.weight.add_(0.5)
    inputs = pictures(3)

    judged = network.eval()(inputs)[:, 2:]

    codes, kinds = network.codes(inputs)
    torch.testing.assert_close(judged, network.mean_generator(codes, kinds).flatten(1))
    assert not torch.allclose(judged, network.generator(codes, kinds).flatten(1))


@pytest.mark.parametrize("source", [EngineSums, HookedSums])
@pytest.mark.parametrize("bound", [1e6, 0.05])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_patient_s_clipped_gradient_is_that_of_a_loop(
    study_with: StudyWith, source: type[ClippedSums], bound: float
) -> None:
    """Records and the pictures beside them: both uses of the discriminator are the patient's."""
    study, network = made(study_with, CLASSES, privacy=PRIVATE)
    task, counts = task_of(study), torch.tensor([2, 1, 3])
    inputs, labels = pictures(6).double(), torch.tensor([0, 1, 1, 0, 1, 0])
    network = network.double().train()
    torch.manual_seed(7)
    drawn = network.codes(inputs)
    expected = _looped(network, task, inputs, labels, counts, drawn, bound)

    sums = source(network, bound=bound, clipping="flat", precision=FLOAT32)
    torch.manual_seed(7)
    found = sums.of(task.loss, inputs, task.truth(inputs, labels), counts)

    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-6)


def _looped(
    network: Gan,
    task: Any,  # noqa: ANN401
    inputs: Tensor,
    labels: Tensor,
    counts: Tensor,
    drawn: tuple[Tensor, Tensor],
    bound: float,
) -> list[Tensor]:
    """Patient by patient, with plain autograd and the same codes."""
    total = [torch.zeros_like(p) for p in network.discriminator.parameters()]
    start = 0
    for count in counts.tolist():
        alone = copy.deepcopy(network)
        here = slice(start, start + count)
        alone.codes.forward = lambda _, here=here: tuple(each[here] for each in drawn)  # type: ignore[assignment,misc]
        losses = task.loss(alone(inputs[here]), task.truth(inputs[here], labels[here]))
        losses.mean().backward()
        grads = [p.grad for p in alone.discriminator.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        factor = min(1.0, bound / norm)
        total = [t + factor * g for t, g in zip(total, grads, strict=True)]
        start += count
    return total


def test_what_one_patient_adds_is_bounded_whatever_the_generator(study_with: StudyWith) -> None:
    """With one patient more, and the same codes for the others, the sum moves by C at most."""
    study, network = made(study_with, [], privacy=PRIVATE)
    task, bound = task_of(study), 0.1
    with torch.no_grad():
        for parameter in network.generator.parameters():
            parameter.mul_(50)
    network.train()
    inputs, labels = pictures(5), torch.zeros(5, 0)

    def summed(records: int) -> Tensor:
        sums = EngineSums(network, bound=bound, clipping="flat", precision=FLOAT32)
        codes = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
        kinds = torch.zeros(5, dtype=torch.long)
        network.codes.forward = lambda given: (codes[: len(given)], kinds[: len(given)])  # type: ignore[assignment]
        truth = task.truth(inputs, labels)[:records]
        found = sums.of(task.loss, inputs[:records], truth, torch.ones(records, dtype=torch.long))
        return torch.cat([each.flatten() for each in found])

    moved = float((summed(5) - summed(4)).norm())

    assert moved == pytest.approx(bound, rel=1e-3)  # it is as long as it may be, and no longer


# --- The distance ---------------------------------------------------------------------------------


def sums_of(task: Any, real: Tensor, fake: Tensor) -> Any:  # noqa: ANN401
    outputs = torch.cat([torch.zeros(len(fake), 2), fake.flatten(1)], dim=1)
    return task.sums(outputs, task.truth(real, torch.zeros(len(real), 0)))


@pytest.fixture(scope="module")
def task(study_with: StudyWith) -> Any:  # noqa: ANN401
    return task_of(made(study_with, [])[0])


def test_the_distance_is_frechet_s_of_all_records_together(task: Any) -> None:  # noqa: ANN401
    from scipy.linalg import sqrtm

    real, fake = pictures(90), pictures(90, seed=1).mul(0.7).add(0.2)
    halves = [sums_of(task, real[some], fake[some]) for some in (slice(30), slice(30, 90))]

    metrics = task.metrics(halves[0] + halves[1])

    (m, c), (n, d) = (
        (found.mean(axis=0), np.cov(found.T, bias=True))
        for found in (features(each).double().numpy() for each in (real, fake))
    )
    square = ((m - n) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)  # type: ignore[no-untyped-call]
    assert metrics["distance"] == pytest.approx(square / np.trace(c), rel=1e-4)
    assert metrics["loss"] == pytest.approx(2 * math.log(2))
    assert metrics["records"] == 90


def test_the_distance_has_a_scale(task: Any) -> None:  # noqa: ANN401
    real = pictures(400)

    def distance(fake: Tensor) -> float:
        return float(task.metrics(sums_of(task, real, fake))["distance"])

    assert distance(real) == pytest.approx(0, abs=1e-4)
    assert distance(pictures(400, seed=1)) < 0.1
    assert distance(real[:1].expand_as(real)) > 0.9  # the same picture again and again
    assert distance(-torch.ones_like(real)) > 1


def test_records_that_are_all_the_same_have_no_distance(task: Any) -> None:  # noqa: ANN401
    same = torch.zeros(4, 1, 9, 7)

    assert task.metrics(sums_of(task, same, pictures(4)))["distance"] is None
    nothing = task.metrics(np.zeros(task.size))
    assert nothing == {"records": 0, "distance": None, "loss": None}


@given(st.integers(0, 2**16), st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30]))
def test_no_model_and_no_record_makes_sums_too_large(seed: int, odd: float) -> None:
    from fedward.models.tasks.generation import Generation
    from fedward.study.task import GenerationTask

    asked = Generation(GenerationTask(kind="generation"), (1, 9, 7))
    torch.manual_seed(seed)
    outputs = torch.cat([torch.randn(3, 2), pictures(3, seed).flatten(1)], dim=1)
    outputs[torch.rand(outputs.shape) < 0.3] = odd
    truth = asked.truth(pictures(3, seed) * 1e9, torch.zeros(3, 0))

    found = asked.sums(asked.bounded(outputs), truth)

    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1e6


def test_features_are_the_same_everywhere() -> None:
    """They are compared between hospitals: whatever was drawn before, these stay."""
    known = features(torch.linspace(-1, 1, 63).view(1, 1, 9, 7))

    assert known.shape == (1, NUMBERS)
    np.testing.assert_allclose(known[0, :3].tolist(), KNOWN, atol=1e-5)


KNOWN = [0.343319, 0.145426, -0.0041984]


# --- What a study may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"shape": [1, 9, 7], "center": 0.0}}, "center"),
        ({"data": {"shape": [2, 9, 7]}}, "1 or 3 channels"),
        ({"data": {"shape": [1, 9, 7, 5]}}, "no volumes"),
        ({"task": {"classes": ["one"]}}, "two or more"),
        ({"task": {"classes": ["a", "a"]}}, "different names"),
        ({"task": {"classes": ["1", "0"]}}, "another's number"),
        ({"data": {"label": "label"}}, "0 column"),
    ],
)
def test_what_cannot_be_made_is_refused(
    study_with: StudyWith, changes: dict[str, Values], said: str
) -> None:
    task: Values = {"kind": "generation"} | changes.get("task", {})
    label = "label" if task.get("classes") else []
    data = IMAGES | {"label": label} | changes.get("data", {})

    with pytest.raises(StudyError, match=said):
        study_with({"task": task, "data": data, "model": {"name": "gan"}})


def test_gradients_reach_the_generator_only_at_the_server(study_with: StudyWith) -> None:
    _, network = made(study_with, [])
    loss = functional.softplus(-network(pictures(2))[:, :1]).sum()

    loss.backward()

    assert all(p.grad is None for p in network.generator.parameters())
