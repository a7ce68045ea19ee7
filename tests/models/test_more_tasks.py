"""Tasks beside classes: their losses by hand, their metrics against exact ones of all records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fedward.models.scores import BINS, edge_of, probability_at
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Task
from fedward.privacy.contribution import Layout, judged
from fedward.privacy.encoding import Encoding
from fedward.study.aggregation import FedAvg
from fedward.study.errors import StudyError
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]

TABLE: dict[str, object] = {"kind": "table", "features": {"a": {}, "b": {}}}
IMAGES: dict[str, object] = {"kind": "images", "shape": [1, 6, 5]}
KINDS: dict[str, dict[str, object]] = {
    "binary": {"task": {"kind": "binary", "classes": ["no", "yes"]}},
    "multiclass": {"task": {"kind": "multiclass", "classes": ["a", "b", "c"]}},
    "multilabel": {
        "task": {"kind": "multilabel", "classes": ["x", "y", "z"]},
        "data": TABLE | {"label": ["x", "y", "z"]},
    },
    "regression": {"task": {"kind": "regression", "bounds": [20, 100]}},
    "survival": {
        "task": {"kind": "survival", "intervals": [1, 2, 4, 8]},
        "data": TABLE | {"label": ["time", "event"]},
    },
    "cox": {
        "task": {"kind": "survival", "intervals": [1, 2, 4, 8], "loss": "cox"},
        "data": TABLE | {"label": ["time", "event"]},
    },
    "segmentation": {
        "task": {"kind": "segmentation", "classes": ["rest", "lung", "heart"]},
        "data": IMAGES,
    },
    "reconstruction": {
        "task": {"kind": "reconstruction"},
        "data": TABLE | {"label": []},
    },
}
ADDED = [kind for kind in KINDS if kind not in {"survival", "cox"}]


@pytest.fixture(scope="session")
def task(study_with: StudyWith) -> Callable[..., Task]:
    """The task of a kind, with settings of its own."""

    def made(kind: str, **settings: object) -> Task:
        changes = KINDS[kind]
        table: Any = changes["task"]
        return task_of(study_with({**changes, "task": table | settings}))

    return made


def records(kind: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs that know something of the truth, and the truth."""
    rng = np.random.default_rng(seed)
    normal = torch.tensor(rng.normal(size=(count, 4)), dtype=torch.float32)
    match kind:
        case "binary" | "multiclass":
            k = 2 if kind == "binary" else 3
            labels = torch.tensor(rng.integers(0, k, count))
            return normal[:, :k] + 1.5 * functional.one_hot(labels, k), labels
        case "multilabel":
            truth = torch.tensor(rng.integers(0, 2, (count, 3)), dtype=torch.float32)
            return normal[:, :3] + truth, truth
        case "regression":
            truth = torch.tensor(rng.uniform(10, 110, count), dtype=torch.float32)
            return (truth.clamp(20, 100).unsqueeze(1) - 60) / 40 + normal[:, :1] / 5, truth
        case "survival" | "cox":
            risk = rng.normal(size=count)
            times = rng.exponential(4 * np.exp(-risk))
            seen = times < (ends := rng.uniform(0, 12, count))
            told = np.stack([np.where(seen, times, ends), seen], axis=1)
            outputs = torch.tensor(risk, dtype=torch.float32).unsqueeze(1) + normal[:, :1] / 2
            if kind == "survival":
                outputs = outputs + torch.tensor([-1.5, -1.5, -1.0, 0.0])
            return outputs, torch.tensor(told, dtype=torch.float32)
        case "segmentation":
            truth = torch.tensor(rng.integers(0, 3, (count, 6, 5)))
            logits = torch.tensor(rng.normal(size=(count, 3, 6, 5)), dtype=torch.float32)
            return logits + functional.one_hot(truth, 3).movedim(3, 1), truth
        case _:
            found = torch.cat([normal * 0.9, normal[:, :1].square()], dim=1)
            return found, normal


# --- What holds of every task ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_as_long_as_promised_and_count_records(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 9)

    sums = asked.sums(outputs, truth)

    assert sums.shape == (asked.size,)
    assert sums[0] == 9
    whole = np.delete(sums, asked.reals)
    assert np.array_equal(whole, np.rint(whole))
    assert np.array_equal(asked.sums(outputs[:0], truth[:0]), np.zeros(asked.size))


@pytest.mark.parametrize("kind", ADDED)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 30))
def test_sums_are_the_same_over_any_split(kind: str, seed: int, cut: int, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 30, seed)

    pieces = asked.sums(outputs[:cut], truth[:cut]) + asked.sums(outputs[cut:], truth[cut:])

    assert not asked.whole
    np.testing.assert_allclose(pieces, asked.sums(outputs, truth), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cox"])  # risk sets join
def test_the_loss_is_each_record_s_own(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 6)

    loss = asked.loss(outputs, truth)

    alone = [asked.loss(outputs[i : i + 1], truth[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(loss, torch.cat(alone))
    assert asked.metrics(asked.sums(outputs, truth))["loss"] == pytest.approx(
        loss.mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_makes_bounded_sums_too_large(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 12)
    odd = [float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 0.0]
    outputs.view(-1)[: 2 * len(odd)] = torch.tensor(odd * 2)

    sums = asked.sums(asked.bounded(outputs), truth)

    assert np.isfinite(sums).all()
    assert 0 <= sums[1] <= 12 * 2e6
    assert all(v is None or np.isfinite(v) for v in flat(asked.metrics(sums)))


@pytest.mark.parametrize("kind", KINDS)
def test_bounded_outputs_mean_the_same(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 40)

    plain, bounded = (asked.sums(o, truth) for o in (outputs, asked.bounded(outputs)))

    np.testing.assert_allclose(bounded[1], plain[1], rtol=1e-5)
    assert np.abs(np.delete(bounded, 1) - np.delete(plain, 1)).sum() <= 2  # a bin's edge


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_nobody_are_none(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)

    metrics = asked.metrics(np.zeros(asked.size))

    assert metrics.pop("records") == 0
    assert set(metrics.values()) == {None}


def flat(metrics: Mapping[str, Any]) -> list[float | None]:
    return [
        value
        for entry in metrics.values()
        for value in (flat(entry) if isinstance(entry, dict) else [entry])
    ]


# --- Classification's metrics that came later -----------------------------------------------------


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


# --- Survival -------------------------------------------------------------------------------------


def test_the_likelihood_of_hazards_by_hand(task: Any) -> None:  # noqa: ANN401
    """An event in the third interval; one not seen past the second's middle, or before it."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.3]])
    hazards = logits.sigmoid().double()[0]
    kept = torch.log(1 - hazards)
    told = torch.tensor([[3.0, 1], [1.6, 0], [1.4, 0], [0.1, 1], [9.0, 1]])

    loss = task("survival").loss(logits.expand(5, 4), told)

    by_hand = [
        -(kept[0] + kept[1] + hazards[2].log()),
        -(kept[0] + kept[1]),
        -kept[0],
        -hazards[0].log(),
        -kept.sum(),  # after the last interval nothing is seen
    ]
    assert loss.tolist() == pytest.approx([float(value) for value in by_hand], rel=1e-5)


def test_the_partial_likelihood_by_hand(task: Any) -> None:  # noqa: ANN401
    risk = torch.tensor([[0.3], [-0.7], [1.1], [0.0]])
    told = torch.tensor([[2.0, 1], [5.0, 0], [1.0, 1], [2.0, 1]])
    e = risk.double().exp().flatten()
    by_hand = [
        torch.log(e[0] + e[1] + e[3]) - risk[0, 0],
        torch.tensor(0.0),
        torch.log(e.sum()) - risk[2, 0],
        torch.log(e[0] + e[1] + e[3]) - risk[3, 0],
    ]

    loss = task("cox").loss(risk, told)

    assert loss.tolist() == pytest.approx([float(value) for value in by_hand], rel=1e-5)


def by_all_pairs(risk: Tensor, times: Tensor, seen: Tensor) -> Tensor:
    """The same, each record's risk set gathered by comparing it with all others."""
    at_risk = times.unsqueeze(0) >= times.unsqueeze(1)
    total = risk.unsqueeze(0).masked_fill(~at_risk, -torch.inf).logsumexp(dim=1)
    return torch.where(seen, total - risk, risk.new_zeros(()))


@pytest.mark.parametrize("count", [1, 2, 300])
def test_the_partial_likelihood_and_its_gradient_are_those_of_all_pairs(
    count: int,
    task: Any,  # noqa: ANN401
) -> None:
    source = torch.Generator().manual_seed(count)
    risk = torch.randn(count, 1, generator=source, dtype=torch.double).mul(3).requires_grad_()
    times = torch.randint(1, 40, (count,), generator=source) / 5  # most of them tied
    seen = torch.rand(count, generator=source) < 0.6
    asked = task("cox")

    loss = asked.loss(risk, torch.stack([times, seen.float()], dim=1))

    expected = by_all_pairs(risk[:, 0], times, seen & (times < 8))
    torch.testing.assert_close(loss, expected)
    found, by_hand = (torch.autograd.grad(each.sum(), risk)[0] for each in (loss, expected))
    torch.testing.assert_close(found, by_hand)


class Largest(TorchDispatchMode):
    """Watches how large tensors get."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, Tensor):
                self.most = max(self.most, each.numel())
        return found


def test_the_partial_likelihood_compares_no_pairs(task: Any) -> None:  # noqa: ANN401
    """Of 100 000 patients all pairs would be 10 GB."""
    outputs, told = records("cox", 500)

    with Largest() as watched:  # type: ignore[no-untyped-call]
        task("cox").loss(outputs, told)

    assert 500 <= watched.most <= 2 * 500


def exact_concordance(risk: NDArray[Any], times: NDArray[Any], seen: NDArray[Any]) -> float:
    """Harrell's, pair by pair."""
    pairs = concordant = 0.0
    for i in np.flatnonzero(seen):
        for j in range(len(risk)):
            if times[i] < times[j] or (times[i] == times[j] and not seen[j]):
                pairs += 1
                concordant += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return concordant / pairs


@pytest.mark.parametrize("kind", ["survival", "cox"])
@pytest.mark.parametrize("seed", range(3))
def test_concordance_is_the_exact_one(kind: str, seed: int, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, told = records(kind, 400, seed)
    risk, times = asked.risk(outputs).numpy(), told[:, 0].numpy()
    seen = (told[:, 1].numpy() > 0.5) & (times < 8)
    exact = exact_concordance(risk, times, seen)

    metrics = asked.metrics(asked.sums(outputs, told))

    assert 0.6 < exact < 0.95
    assert metrics["concordance_inside"] == pytest.approx(exact, abs=1e-9)
    assert metrics["concordance"] == pytest.approx(exact, abs=0.01)
    assert metrics["events"] == seen.sum()


@pytest.mark.parametrize("kind", ["survival", "cox"])
def test_pairs_of_two_hospitals_count_in_the_pooled_concordance_alone(kind: str, task: Any) -> None:  # noqa: ANN401
    """One hospital's patients fail late and are thought safe, the other's the other way round."""
    asked = task(kind)
    outputs, told = records(kind, 600)
    late = told[:, 0] > told[:, 0].median()
    parts = [asked.sums(outputs[some], told[some]) for some in (late, ~late)]
    everything = asked.metrics(asked.sums(outputs, told))

    added = asked.metrics(parts[0] + parts[1])

    assert asked.whole
    assert added["concordance"] == pytest.approx(everything["concordance"], abs=1e-12)
    assert added["concordance_inside"] < everything["concordance_inside"] - 0.03


def test_ties_and_order_of_two_patients(task: Any) -> None:  # noqa: ANN401
    asked = task("cox")
    told = torch.tensor([[1.0, 1], [3.0, 0]])
    worth = [
        asked.metrics(asked.sums(torch.tensor([[first], [0.0]]), told)) for first in (2.0, -2.0, 0)
    ]

    assert [m["concordance"] for m in worth] == [1.0, 0.0, 0.5]
    assert [m["concordance_inside"] for m in worth] == [1.0, 0.0, 0.5]


def test_cox_is_refused_where_patients_are_protected(study_with: StudyWith) -> None:
    privacy = {"mode": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.5}
    study = study_with({**KINDS["cox"], "privacy": privacy})

    with pytest.raises(StudyError) as caught:
        task_of(study)
    assert caught.value.key == "task.loss"


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
