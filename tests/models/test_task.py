"""Sums of metrics: they add up over hospitals, and give what scikit-learn says of all records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torch import Tensor

from fedward.models.scores import BINS
from fedward.models.task import task_of
from fedward.models.tasks.classification import Classification
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]


ODD = (float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 3e38)


@pytest.fixture(scope="session")
def binary(study_with: StudyWith) -> Classification:
    """Two classes, called at one half."""
    task = task_of(study_with({}))
    assert isinstance(task, Classification)
    return task


@pytest.fixture(scope="session")
def multiclass(study_with: StudyWith) -> Classification:
    """Four classes."""
    classes = {"kind": "multiclass", "classes": ["a", "b", "c", "d"]}
    task = task_of(study_with({"task": classes}))
    assert isinstance(task, Classification)
    return task


def records(classes: int, count: int, seed: int, signal: float = 1.5) -> tuple[Tensor, Tensor]:
    """Logits that know something of the labels, and the labels; every class is there."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(0, 1, (count, classes)) + signal * np.eye(classes)[labels]
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def probabilities(logits: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.softmax(logits.double(), dim=1).numpy()
    return found


# --- Sums -----------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
)
def test_sums_are_the_same_over_any_split_of_the_records(
    seed: int, count: int, cuts: list[int], binary: Classification, multiclass: Classification
) -> None:
    for classes, task in ((2, binary), (4, multiclass)):
        logits, labels = records(classes, count, seed)
        places = [min(cut, count) for cut in sorted(cuts)]
        pieces = zip(
            torch.tensor_split(logits, places), torch.tensor_split(labels, places), strict=True
        )

        total = np.sum([task.sums(*piece) for piece in pieces], axis=0)

        whole = task.sums(logits, labels)
        assert total[1] == pytest.approx(whole[1])
        assert np.array_equal(np.delete(total, 1), np.delete(whole, 1))


def test_sums_are_as_long_as_promised(binary: Classification, multiclass: Classification) -> None:
    assert len(binary.sums(*records(2, 9, 0))) == binary.size == 2 + 4 + 2 * BINS
    assert len(multiclass.sums(*records(4, 9, 0))) == multiclass.size == 2 + 16 + 8 * BINS


def test_no_records_give_zeros(binary: Classification) -> None:
    sums = binary.sums(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))

    assert np.array_equal(sums, np.zeros(binary.size))


def test_metrics_of_no_records_are_none(binary: Classification) -> None:
    metrics = binary.metrics(np.zeros(binary.size))

    assert metrics.pop("records") == 0
    assert set(metrics.values()) == {None}


# --- Metrics against scikit-learn -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_are_those_of_scikit_learn(seed: int, binary: Classification) -> None:
    logits, labels = records(2, 2000, seed)
    truth, found = labels.numpy(), probabilities(logits)
    called = found[:, 1] >= 0.5

    metrics = binary.metrics(binary.sums(logits, labels))

    assert metrics["records"] == 2000
    assert metrics["loss"] == pytest.approx(log_loss(truth, found), rel=1e-5)
    assert metrics["auc"] == pytest.approx(roc_auc_score(truth, found[:, 1]), abs=0.002)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, called), abs=1e-12)
    assert metrics["sensitivity"] == pytest.approx(recall_score(truth, called), abs=1e-12)
    assert metrics["specificity"] == pytest.approx(recall_score(truth == 0, ~called), abs=1e-12)
    assert metrics["precision"] == pytest.approx(precision_score(truth, called), abs=1e-12)
    assert metrics["threshold"] == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_metrics_are_those_of_scikit_learn(
    seed: int, multiclass: Classification
) -> None:
    logits, labels = records(4, 2000, seed)
    truth, found = labels.numpy(), probabilities(logits)

    metrics = multiclass.metrics(multiclass.sums(logits, labels))

    area = roc_auc_score(truth, found, multi_class="ovr", average="macro")
    assert metrics["auc"] == pytest.approx(area, abs=0.002)
    assert metrics["loss"] == pytest.approx(log_loss(truth, found), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(
        accuracy_score(truth, found.argmax(axis=1)), abs=1e-12
    )
    assert "threshold" not in metrics


@given(seed=st.integers(0, 10_000), size=st.floats(1e-6, 50))
def test_binary_accuracy_at_one_half_is_exactly_that_of_the_larger_logit(
    seed: int, size: float, binary: Classification
) -> None:
    logits, labels = records(2, 50, seed)
    logits = logits * size

    metrics = binary.metrics(binary.sums(logits, labels), threshold=0.5)

    assert metrics["accuracy"] == (logits.argmax(dim=1) == labels).double().mean().item()


def test_a_probability_of_just_one_half_calls_the_finding(binary: Classification) -> None:
    sums = binary.sums(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))

    metrics = binary.metrics(sums, threshold=0.5)

    assert (metrics["sensitivity"], metrics["specificity"]) == (1.0, 0.0)


def test_a_class_that_nobody_has_leaves_the_auc_unknown(multiclass: Classification) -> None:
    logits, labels = records(4, 100, 0)
    labels[labels == 3] = 0

    metrics = multiclass.metrics(multiclass.sums(logits, labels))

    assert metrics["auc"] is None
    assert metrics["accuracy"] is not None


def test_what_cannot_be_judged_is_none(binary: Classification) -> None:
    sure_negative = torch.tensor([[9.0, -9.0]] * 3)

    metrics = binary.metrics(binary.sums(sure_negative, torch.zeros(3, dtype=torch.int64)))

    assert metrics["sensitivity"] is None
    assert metrics["precision"] is None
    assert metrics["specificity"] == 1.0


def test_a_mean_of_hospitals_would_be_another_auc(binary: Classification) -> None:
    """Two hospitals, each with a perfect order of its own, are no perfect order together."""
    calm = torch.tensor([[0.0, -3.0], [0.0, -2.0]])
    anxious = torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    labels = torch.tensor([0, 1])
    each = [binary.sums(logits, labels) for logits in (calm, anxious)]

    assert [binary.metrics(sums)["auc"] for sums in each] == [1.0, 1.0]
    assert binary.metrics(each[0] + each[1])["auc"] == 0.75


# --- Loss -----------------------------------------------------------------------------------------


def test_the_loss_of_a_record_is_minus_the_logarithm_of_its_class_probability(
    multiclass: Classification,
) -> None:
    logits, labels = records(4, 20, 0)
    by_hand = -np.log(probabilities(logits)[np.arange(20), labels.numpy()])

    loss = multiclass.loss(logits, labels)

    assert loss.shape == (20,)
    assert loss.numpy() == pytest.approx(by_hand, rel=1e-4, abs=1e-6)


# --- Thresholds -----------------------------------------------------------------------------------


def test_a_set_threshold_is_used_as_it_is(study_with: StudyWith) -> None:
    task = task_of(study_with({"task.threshold": 0.3}))

    assert task.threshold(None) == 0.3


@pytest.mark.parametrize("rule", ["max_accuracy", "max_balanced_accuracy"])
def test_a_threshold_cannot_be_chosen_on_nothing(rule: str, study_with: StudyWith) -> None:
    task = task_of(study_with({"task.threshold": rule}))

    assert task.threshold(None) == 0.5
    assert task.threshold(np.zeros(task.size)) == 0.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["max_accuracy", "max_balanced_accuracy"])
def test_no_other_threshold_is_better_than_the_chosen_one(
    rule: str, seed: int, study_with: StudyWith
) -> None:
    task = task_of(study_with({"task.threshold": rule}))
    logits, labels = records(2, 400, seed, signal=1.0)
    kept = (labels == 0) | (torch.arange(400) % 5 == 0)  # far fewer of the finding
    sums = task.sums(logits[kept] + torch.tensor([0.0, 1.0]), labels[kept])

    def worth(threshold: float) -> float:
        found = task.metrics(sums, threshold)
        if rule == "max_accuracy":
            return float(found["accuracy"])
        return float(found["sensitivity"] + found["specificity"]) / 2

    chosen = worth(task.threshold(sums))

    assert chosen == pytest.approx(max(worth(t) for t in np.linspace(0.001, 0.999, 999)))
    assert chosen > worth(0.5)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("rule", ["max_accuracy", "max_balanced_accuracy"])
def test_where_everybody_is_of_one_class_the_chosen_threshold_calls_that_class(
    label: int, rule: str, study_with: StudyWith
) -> None:
    task = task_of(study_with({"task.threshold": rule}))
    logits = torch.tensor([[0.0, 40.0], [0.0, -40.0], [0.0, 0.0]])
    sums = task.sums(logits, torch.full((3,), label))

    assert task.metrics(sums, task.threshold(sums))["accuracy"] == 1.0


# --- Outputs that are not finite ------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from([0.0, 2.5, *ODD]), min_size=4, max_size=4), min_size=1))
def test_bounded_outputs_give_finite_sums_whatever_they_are(
    multiclass: Classification, outputs: list[list[float]]
) -> None:
    labels = torch.arange(len(outputs)) % 4

    sums = multiclass.sums(multiclass.bounded(torch.tensor(outputs)), labels)

    assert np.isfinite(sums).all()
    assert sums[0] == len(outputs)
    assert 0 <= sums[1] <= 100 * len(outputs)


def test_outputs_as_models_give_them_mean_the_same_when_they_are_bounded(
    multiclass: Classification,
) -> None:
    source = torch.Generator().manual_seed(0)
    outputs = 8 * torch.randn(500, 4, generator=source, dtype=torch.float64)
    labels = torch.randint(0, 4, (500,), generator=source)

    plain, bounded = (multiclass.sums(o, labels) for o in (outputs, multiclass.bounded(outputs)))

    np.testing.assert_allclose(bounded, plain, rtol=1e-9)


def test_an_output_that_is_not_finite_knows_nothing(binary: Classification) -> None:
    outputs = torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0], [0.0, 0.0]])

    found = binary.bounded(outputs)

    assert torch.equal(found, found[2].expand(3, 2))
