"""Losses by hand and metrics against exact ones, of every task but survival."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)
from torch.nn import functional

from fedward.models.scores import BINS, edge_of, probability_at
from fedward.privacy.contribution import Layout, judged
from fedward.privacy.encoding import Encoding
from fedward.study.aggregation import FedAvg
from tests.models.task_kinds import records

# --- Classification -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_calibration_and_precision_are_scikit_learn_s(seed: int, task: Any) -> None:  # noqa: ANN401
    asked = task("binary")
    outputs, labels = records("binary", 3000, seed)
    truth, found = labels.numpy(), outputs.double().softmax(dim=1)[:, 1].numpy()

    metrics = asked.metrics(asked.sums(outputs, labels))

    assert metrics["brier"] == pytest.approx(brier_score_loss(truth, found), abs=1e-3)
    assert metrics["average_precision"] == pytest.approx(
        average_precision_score(truth, found), abs=2e-3
    )
    assert metrics["f1"] == pytest.approx(f1_score(truth, found >= 0.5), abs=1e-12)
    assert metrics["calibration_error"] == pytest.approx(exact_ece(truth, found), abs=5e-3)


def exact_ece(truth: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    total = 0.0
    for low in np.arange(10) / 10:
        group = (found >= low) & (found < low + 0.1)
        if group.any():
            total += group.sum() * abs(truth[group].mean() - found[group].mean())
    return total / len(truth)


def test_of_several_classes_metrics_are_means_and_the_brier_score_a_sum(task: Any) -> None:  # noqa: ANN401
    asked = task("multiclass")
    outputs, labels = records("multiclass", 3000)
    truth, found = labels.numpy(), outputs.double().softmax(dim=1).numpy()
    one_hot = np.eye(3)[truth]

    metrics = asked.metrics(asked.sums(outputs, labels))

    assert metrics["f1"] == pytest.approx(f1_score(truth, found.argmax(1), average="macro"))
    assert metrics["average_precision"] == pytest.approx(
        average_precision_score(one_hot, found, average="macro"), abs=2e-3
    )
    assert metrics["brier"] == pytest.approx(((one_hot - found) ** 2).sum(1).mean(), abs=2e-3)


MACRO = ("precision", "recall", "f1")


@given(seed=st.integers(0, 10_000), size=st.integers(1, 30))
def test_precision_and_recall_of_classes_are_scikit_learn_s(
    seed: int,
    size: int,
    task: Any,  # noqa: ANN401
) -> None:
    asked = task("multiclass")
    outputs, labels = records("multiclass", size, seed)
    truth, called = labels.numpy(), outputs.argmax(1).numpy()

    metrics = asked.metrics(asked.sums(outputs, labels))

    if set(truth) | set(called) != {0, 1, 2}:  # a class of which nothing is known
        assert [metrics[name] for name in MACRO] == [None] * 3
        return
    right = precision_recall_fscore_support(truth, called, average="macro", zero_division=0)
    assert [metrics[name] for name in MACRO] == pytest.approx(right[:3], abs=1e-12)


def test_precision_and_recall_of_classes_by_hand(task: Any) -> None:  # noqa: ANN401
    asked = task("multiclass")
    labels, called = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 0])
    outputs = functional.one_hot(called, 3).float()

    metrics = asked.metrics(asked.sums(outputs, labels))

    assert metrics["precision"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)  # nobody was called 2
    assert metrics["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)


# --- Multilabel -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), size=st.integers(1, 30), threshold=st.sampled_from([0.5, 0.9]))
def test_precision_and_recall_of_findings_are_scikit_learn_s(
    seed: int,
    size: int,
    threshold: float,
    task: Any,  # noqa: ANN401
) -> None:
    asked = task("multilabel", threshold=threshold)
    outputs, labels = records("multilabel", size, seed)
    edge = probability_at(edge_of(threshold))
    truth, called = labels.numpy() > 0.5, outputs.double().sigmoid().numpy() >= edge

    metrics = asked.metrics(asked.sums(outputs, labels), threshold)

    known = [any(column) for column in (truth | called).T.tolist()]
    each = precision_recall_fscore_support(truth, called, average=None, zero_division=0)
    for place, name in enumerate("xyz"):
        right = [float(values[place]) if known[place] else None for values in each[:3]]
        assert [metrics["classes"][name][metric] for metric in MACRO] == right
    if all(known):
        right = precision_recall_fscore_support(truth, called, average="macro", zero_division=0)
        assert [metrics[name] for name in MACRO] == pytest.approx(right[:3], abs=1e-12)
    else:
        assert [metrics[name] for name in MACRO] == [None] * 3


def test_each_finding_is_judged_by_itself(task: Any) -> None:  # noqa: ANN401
    asked = task("multilabel", threshold=0.5)
    outputs, labels = records("multilabel", 2000)
    truth, found = labels.numpy(), outputs.sigmoid().numpy()

    metrics = asked.metrics(asked.sums(outputs, labels), asked.threshold(None))

    for place, name in enumerate("xyz"):
        own, column = metrics["classes"][name], truth[:, place]
        assert own["auc"] == pytest.approx(roc_auc_score(column, found[:, place]), abs=2e-3)
        assert own["f1"] == pytest.approx(f1_score(column, found[:, place] >= 0.5), abs=1e-12)
        assert own["average_precision"] == pytest.approx(
            average_precision_score(column, found[:, place]), abs=3e-3
        )
    assert metrics["auc"] == pytest.approx(np.mean([c["auc"] for c in metrics["classes"].values()]))


def test_the_loss_of_several_findings_by_hand(task: Any) -> None:  # noqa: ANN401
    outputs, labels = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    by_hand = (np.log(2) + np.log1p(np.exp(2)) + np.log1p(np.exp(-1))) / 3

    assert task("multilabel").loss(outputs, labels).item() == pytest.approx(by_hand, rel=1e-6)


# --- Regression -----------------------------------------------------------------------------------


def test_errors_of_a_number_are_scikit_learn_s_in_its_own_unit(task: Any) -> None:  # noqa: ANN401
    asked = task("regression")
    outputs, labels = records("regression", 500)
    truth = labels.clamp(20, 100).numpy()
    said = 60 + 40 * outputs[:, 0].numpy()

    metrics = asked.metrics(asked.sums(outputs, labels))

    assert metrics["mae"] == pytest.approx(mean_absolute_error(truth, said), rel=1e-5)
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(truth, said), rel=1e-5)
    assert metrics["r2"] == pytest.approx(r2_score(truth, said), rel=1e-5)


def test_a_number_is_mapped_by_its_public_bounds(task: Any) -> None:  # noqa: ANN401
    loss = task("regression").loss(torch.zeros(4, 1), torch.tensor([20.0, 60.0, 100.0, 1e6]))

    assert loss.tolist() == [1, 0, 1, 1]


def test_no_r2_of_one_number_for_everybody(task: Any) -> None:  # noqa: ANN401
    asked = task("regression")

    assert asked.metrics(asked.sums(torch.zeros(5, 1), torch.full((5,), 77.7)))["r2"] is None


# --- Segmentation ---------------------------------------------------------------------------------


def test_dice_over_all_pixels_is_counted_by_hand(task: Any) -> None:  # noqa: ANN401
    asked = task("segmentation")
    outputs, truth = records("segmentation", 20)
    called = outputs.argmax(dim=1)

    metrics = asked.metrics(asked.sums(outputs, truth))

    for number, name in enumerate(["rest", "lung", "heart"]):
        a, b = called == number, truth == number
        both, either = (a & b).sum().item(), (a | b).sum().item()
        own = metrics["classes"][name]
        assert own["dice"] == pytest.approx(2 * both / (a.sum().item() + b.sum().item()))
        assert own["iou"] == pytest.approx(both / either)
    assert metrics["dice"] == pytest.approx(
        (metrics["classes"]["lung"]["dice"] + metrics["classes"]["heart"]["dice"]) / 2
    )
    assert metrics["accuracy"] == pytest.approx((called == truth).double().mean().item())


def test_a_mask_of_bytes_is_the_same_mask(task: Any) -> None:  # noqa: ANN401
    asked = task("segmentation", loss="dice")
    outputs, truth = records("segmentation", 20)
    small = truth.to(torch.uint8)

    assert torch.equal(asked.loss(outputs, small), asked.loss(outputs, truth))
    assert np.array_equal(asked.sums(outputs, small), asked.sums(outputs, truth))


def test_the_dice_loss_by_hand(task: Any) -> None:  # noqa: ANN401
    outputs, truth = records("segmentation", 1)
    p, t = outputs.softmax(dim=1)[0].double(), truth[0]
    crossed = -np.mean([np.log(float(p[t[i, j], i, j])) for i in range(6) for j in range(5)])
    dice = [
        (2 * p[c][t == c].sum() + 1) / (p[c].sum() + (t == c).sum() + 1) for c in (1, 2)
    ]  # not of the background

    with_dice = task("segmentation").loss(outputs, truth).item()
    without = task("segmentation", loss="cross_entropy").loss(outputs, truth).item()

    assert without == pytest.approx(crossed, rel=1e-5)
    assert with_dice == pytest.approx(crossed + 1 - float(sum(dice)) / 2, rel=1e-5)


def test_volumes_are_marked_like_images(task: Any) -> None:  # noqa: ANN401
    asked = task("segmentation")
    truth = torch.randint(3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    sure = 20.0 * functional.one_hot(truth, 3).movedim(4, 1)

    metrics = asked.metrics(asked.sums(sure, truth))

    assert metrics["dice"] == 1.0
    assert metrics["loss"] < 1e-3


# --- Reconstruction -------------------------------------------------------------------------------


def test_a_record_is_its_own_truth(task: Any) -> None:  # noqa: ANN401
    asked = task("reconstruction")
    inputs = torch.arange(12.0).view(2, 3, 2)
    outputs = torch.cat([inputs.flatten(1) + 0.5, torch.tensor([[0.0], [3.0]])], dim=1)

    truth = asked.truth(inputs, torch.zeros(2, 0))

    assert torch.equal(truth, inputs.flatten(1))
    assert asked.loss(outputs, truth).tolist() == [0.25, 3.25]
    metrics = asked.metrics(asked.sums(outputs, truth))
    assert metrics["error"] == pytest.approx(0.25)
    assert metrics["loss"] == pytest.approx(1.75)


def test_the_histogram_of_errors_tells_quantiles_and_who_is_unusual(task: Any) -> None:  # noqa: ANN401
    from fedward.models.scores import auc

    asked = task("reconstruction")
    rng = np.random.default_rng(0)
    usual, odd = (torch.tensor(rng.normal(scale=s, size=(800, 4))) for s in (1.0, 2.0))
    sums = []
    for some in (usual, odd):
        outputs = torch.cat([torch.zeros(800, 4), torch.zeros(800, 1)], dim=1)
        sums.append(asked.sums(outputs, some))
    errors = [some.square().mean(dim=1).numpy() for some in (usual, odd)]

    area = auc(*(s[-BINS:] for s in sums))

    truth = np.repeat([0, 1], 800)
    assert area == pytest.approx(roc_auc_score(truth, np.concatenate(errors)), abs=2e-3)
    metrics = asked.metrics(sums[0])
    assert metrics["error_median"] == pytest.approx(np.median(errors[0]), rel=0.05)
    assert metrics["error_95"] == pytest.approx(np.quantile(errors[0], 0.95), rel=0.05)


def test_one_record_s_huge_error_leaves_a_sum_that_can_be_added_up(task: Any) -> None:  # noqa: ANN401
    asked = task("reconstruction")
    outputs, truth = records("reconstruction", 5)
    truth[2] = 1e18
    layout = Layout(0, asked.size, asked.reals)
    code = Encoding(layout, FedAvg(), hospitals=8)

    sums = asked.sums(outputs, truth)
    found = code.decode(code.encode(judged(sums), rng=np.random.default_rng(0)))

    assert found.metrics[0] == 5
    assert 4e6 <= asked.metrics(sums)["error"] * 5 < 4e6 + 100
    np.testing.assert_allclose(found.metrics, sums, atol=1e-3)
