"""Class weights: in the loss that is learnt, in no metric, and under the bound of private steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedward.client.data.records import Records
from fedward.client.training import train
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.steps import PlainSteps
from fedward.study.errors import StudyError
from fedward.study.study import Study
from tests.privacy.private_networks import private

StudyWith = Callable[[Mapping[str, object]], Study]

WEIGHTS = [0.5, 3.0, 10.0]
IMAGES: dict[str, object] = {"kind": "images", "shape": [1, 6, 5]}
KINDS: dict[str, dict[str, Any]] = {
    "multiclass": {"task": {"kind": "multiclass", "classes": ["a", "b", "c"]}},
    "multilabel": {
        "task": {"kind": "multilabel", "classes": ["a", "b", "c"]},
        "data.label": ["x", "y", "z"],
    },
    "segmentation": {"task": {"kind": "segmentation", "classes": ["a", "b", "c"]}, "data": IMAGES},
}


def with_weights(kind: str, weights: object, **further: object) -> dict[str, object]:
    changes = copy.deepcopy(KINDS[kind])
    changes["task"] |= {"class_weights": weights, **further}
    return changes


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def some(kind: str) -> tuple[Tensor, Tensor]:
    """Outputs and labels of seven records."""
    if kind == "segmentation":
        logits = torch.randn(7, 3, 6, 5, generator=seeded())
        return logits, torch.randint(0, 3, (7, 6, 5), generator=seeded())
    logits = torch.randn(7, 3, generator=seeded())
    if kind == "multilabel":
        return logits, (torch.rand(7, 3, generator=seeded()) < 0.4).float()
    return logits, torch.tensor([0, 1, 2, 0, 1, 2, 2])


def test_a_record_s_loss_is_multiplied_with_the_weight_of_its_class(study_with: StudyWith) -> None:
    logits, labels = some("multiclass")

    found = task_of(study_with(with_weights("multiclass", WEIGHTS))).loss(logits, labels)

    each = [-logits[n].log_softmax(0)[k] * WEIGHTS[k] for n, k in enumerate(labels.tolist())]
    assert torch.allclose(found, torch.stack(each))


def test_a_finding_that_is_there_has_the_weight(study_with: StudyWith) -> None:
    logits, labels = some("multilabel")

    found = task_of(study_with(with_weights("multilabel", WEIGHTS))).loss(logits, labels)

    there = -functional.logsigmoid(logits) * torch.tensor(WEIGHTS)
    absent = -functional.logsigmoid(-logits)
    assert torch.allclose(found, (labels * there + (1 - labels) * absent).mean(dim=1))


@pytest.mark.parametrize("loss", ["cross_entropy", "dice"])
def test_a_pixel_s_cross_entropy_has_the_weight_and_dice_has_none(
    loss: str, study_with: StudyWith
) -> None:
    logits, labels = some("segmentation")
    weighted, plain = (
        task_of(study_with(with_weights("segmentation", weights, loss=loss))).loss(logits, labels)
        for weights in (WEIGHTS, None)
    )

    each = functional.cross_entropy(logits, labels, reduction="none")
    more = (each * (torch.tensor(WEIGHTS)[labels] - 1)).flatten(1).mean(dim=1)
    assert torch.allclose(weighted - plain, more, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_of_one_change_nothing(kind: str, study_with: StudyWith) -> None:
    plain, ones = (
        task_of(study_with(with_weights(kind, weights))).loss(*some(kind))
        for weights in (None, [1.0, 1.0, 1.0])
    )
    assert torch.equal(plain, ones)


@pytest.mark.parametrize("kind", KINDS)
def test_no_metric_has_weights(kind: str, study_with: StudyWith) -> None:
    weighted, plain = (
        task_of(study_with(with_weights(kind, weights))) for weights in (WEIGHTS, None)
    )
    assert weighted.sums(*some(kind)).tolist() == plain.sums(*some(kind)).tolist()


def test_the_bounded_loss_of_a_noisy_evaluation_has_no_weights(study_with: StudyWith) -> None:
    """Else more losses would be cut at the bound, which is in units of knowing nothing."""
    changes = {
        "privacy": {
            **{"mode": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.5},
            "evaluation_noise_multiplier": 2.0,
        }
    }
    found = []
    for weights in (WEIGHTS, None):
        task = task_of(study_with({**with_weights("multiclass", weights), **changes}))
        assert isinstance(task, NoisedClassification)
        found.append(task.patient_vectors(*some("multiclass"), torch.arange(7)).tolist())
    assert found[0] == found[1]


def test_training_is_that_of_a_weighted_loss_divided_by_the_records(study_with: StudyWith) -> None:
    """Not by the sum of their weights: what a patient moves would depend on who else is there."""
    training = {"training.batch_size": "all", "training.learning_rate": 0.2}
    study = study_with({**training, "task.class_weights": [1.0, 7.0]})
    inputs = torch.randn(20, 3, generator=seeded())
    labels = (inputs[:, 0] > 0.8).long()
    found, by_hand = build(study, seed=1), build(study, seed=1)

    steps = PlainSteps(None, 1, None, seeded())
    train(found, Records(inputs, labels, torch.arange(20)), study, task_of(study), steps)
    each = functional.cross_entropy(by_hand(inputs), labels, reduction="none")
    (each * torch.tensor([1.0, 7.0])[labels]).mean().backward()

    for mine, theirs in zip(found.parameters(), by_hand.parameters(), strict=True):
        assert theirs.grad is not None
        assert torch.allclose(mine, theirs - 0.2 * theirs.grad, atol=1e-6)


def test_a_heavy_patient_moves_a_private_model_no_further_than_another(
    study_with: StudyWith,
) -> None:
    """The weight is in the gradient before it is clipped: one patient adds the norm at most."""
    study = study_with(
        {
            "task.class_weights": [1.0, 1000.0],
            "training.local_epochs": None,
            "training.local_steps": 1,
            "training.learning_rate": 1.0,
        }
    )
    model = build(study, seed=1)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    one = Records(torch.ones(1, 3), torch.tensor([1]), torch.zeros(1, dtype=torch.int64))

    train(model, one, study, task_of(study), private(steps=1, clipping_norm=0.01))

    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0.0099 < float((after - before).norm()) <= 0.0100001


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [0.0, 1.0], [1.0, -1.0], [1.0, 2000]])
def test_weights_are_one_a_class_and_above_zero(
    weights: list[float], study_with: StudyWith
) -> None:
    with pytest.raises(StudyError, match=r"class_weights|^task"):
        study_with({"task.class_weights": weights})


def test_only_weights_that_are_given_are_in_the_digest(study_with: StudyWith) -> None:
    plain = study_with({})
    assert "class_weights" not in plain.canonical().decode()
    assert study_with({"task.class_weights": [1, 2]}).digest() != plain.digest()
