"""A task whose evaluation has noise: what one patient can change, and what noise makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from fedward.models.task import task_of
from fedward.models.tasks.classification import Classification
from fedward.models.tasks.noised_classification import NoisedClassification, _nearest
from fedward.privacy.contribution import Layout, judged
from fedward.privacy.encoding import Encoding
from fedward.privacy.statistics import clipped_sum
from fedward.study.aggregation import FedAvg
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]
Array = NDArray[np.float64]

PRIVATE = {
    "mode": "local",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "sampling_rate": 0.5,
    "evaluation_noise_multiplier": 3.0,
}
FOUR = {"kind": "multiclass", "classes": ["a", "b", "c", "d"]}


@pytest.fixture(scope="session")
def task(study_with: StudyWith) -> Callable[..., NoisedClassification]:
    """The task of a study with noise in its evaluation, as it is changed."""

    def made(changes: Mapping[str, object] | None = None) -> NoisedClassification:
        found = task_of(study_with({"privacy": PRIVATE, **(changes or {})}))
        assert isinstance(found, NoisedClassification)
        return found

    return made


def records(count: int, seed: int = 1, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Logits that know something of the labels, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    logits = rng.normal(0, 1, (count, classes)) + 1.5 * np.eye(classes)[labels]
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def exact(task: NoisedClassification, logits: Tensor, labels: Tensor) -> Array:
    """The sums of patients of one record each."""
    total: Array = task.patient_vectors(logits, labels, torch.arange(len(labels))).sum(axis=0)
    return total


def test_only_a_study_that_asks_for_noise_has_such_a_task(study_with: StudyWith) -> None:
    silent = {k: v for k, v in PRIVATE.items() if k != "evaluation_noise_multiplier"}

    assert type(task_of(study_with({}))) is Classification
    assert type(task_of(study_with({"privacy": silent}))) is Classification


def test_the_norm_is_the_root_of_the_number_of_blocks(
    task: Callable[..., NoisedClassification],
) -> None:
    assert task().norm == 2.0
    assert task({"task": FOUR}).norm == pytest.approx(math.sqrt(7))
    assert task().deviation == 3 * 2.0
    assert task().loss_bound == pytest.approx(4 * math.log(2))


# --- What one patient adds ------------------------------------------------------------------------


@st.composite
def patients(draw: st.DrawFn, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Records with any logits at all, and whose they are: one patient has many."""
    count = draw(st.integers(1, 40))
    odd = st.floats(width=32) | st.floats(-5, 5, width=32)
    logits = draw(hnp.arrays(np.float32, (count, classes), elements=odd))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    whose = draw(hnp.arrays(np.int64, count, elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3])))
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(whose)


@pytest.mark.parametrize("classes", [2, 4])
@given(data=st.data())
def test_one_patient_less_moves_the_sum_by_at_most_the_norm(
    classes: int, data: st.DataObject, task: Callable[..., NoisedClassification]
) -> None:
    """However many records the patient has and whatever they are."""
    noised = task({"task": FOUR} if classes == 4 else {})
    logits, labels, whose = data.draw(patients(classes))
    logits, rest = noised.bounded(logits), whose != 0

    vectors = noised.patient_vectors(logits, labels, whose)
    others = (
        noised.patient_vectors(logits[rest], labels[rest], whose[rest])
        if rest.any()
        else np.zeros((0, noised.size))
    )
    whole, less = (clipped_sum(some, noised.norm) for some in (vectors, others))

    assert np.linalg.norm(whole - less) <= noised.norm * (1 + 1e-12)
    assert np.linalg.norm(vectors, axis=1).max() <= noised.norm * (1 + 1e-12)  # clips nobody


def test_one_patient_can_move_it_by_the_whole_norm(
    task: Callable[..., NoisedClassification],
) -> None:
    noised = task()
    wrong = noised.bounded(torch.tensor([[50.0, -50.0]] * 7))
    vectors = noised.patient_vectors(wrong, torch.ones(7, dtype=torch.int64), torch.zeros(7))

    assert np.linalg.norm(vectors) == pytest.approx(noised.norm)


@pytest.mark.parametrize("classes", [2, 4])
def test_patients_of_one_record_give_the_exact_counts(
    classes: int, task: Callable[..., NoisedClassification], study_with: StudyWith
) -> None:
    changes: dict[str, object] = {"task": FOUR} if classes == 4 else {}
    noised, plain = task(changes), task_of(study_with(changes))
    logits, labels = records(300, classes=classes)
    found, wanted = exact(noised, logits, labels), plain.sums(logits, labels)
    blocks = 2 + classes**2

    known = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert found[0] == pytest.approx(300)
    assert found[1] * noised.loss_bound == pytest.approx(
        float(known.clamp(max=noised.loss_bound).sum()), rel=1e-5
    )
    np.testing.assert_allclose(found[2:blocks], wanted[2:blocks])
    coarse = wanted[blocks:].reshape(-1, noised.bins, 1024 // noised.bins).sum(axis=2)
    np.testing.assert_allclose(found[blocks:], coarse.reshape(-1))


def test_a_patient_counts_once_whatever_records_there_are(
    task: Callable[..., NoisedClassification],
) -> None:
    noised, (logits, labels) = task(), records(12)
    whose = torch.tensor([0] * 9 + [1, 1, 2])

    vectors = noised.patient_vectors(logits, labels, whose)

    single = noised.patient_vectors(logits, labels, torch.arange(12))
    for patient in range(3):
        mean = single[whose.numpy() == patient].mean(axis=0)
        np.testing.assert_allclose(vectors[patient], mean, atol=1e-12)


# --- What noise makes of it -----------------------------------------------------------------------


@given(
    hnp.arrays(float, st.integers(1, 30), elements=st.floats(-1e4, 1e4)),
    st.just(0.0) | st.floats(1e-30, 1e5),
)
def test_the_nearest_counts_are_the_nearest(values: Array, total: float) -> None:
    found = _nearest(values, total)

    assert found.min() >= 0
    assert found.sum() == pytest.approx(total, rel=1e-6, abs=1e-6)
    if total > 1:  # what is kept is moved by one amount, and what is dropped lies below it
        kept = found > 0
        moved = (values - found)[kept]
        assert moved.max() - moved.min() < 1e-6
        assert values[~kept].max(initial=-np.inf) <= moved.max() + 1e-6


def test_possible_counts_stay_as_they_are() -> None:
    values = np.array([3.0, 0.0, 1.5])

    np.testing.assert_allclose(_nearest(values, 4.5), values, atol=1e-12)


@pytest.mark.parametrize("rule", [0.5, 0.3, "max_accuracy", "max_balanced_accuracy", "four"])
@given(data=st.data())
def test_whatever_noise_makes_of_the_sums_the_metrics_are_possible(
    rule: Any,  # noqa: ANN401
    data: st.DataObject,
    task: Callable[..., NoisedClassification],
) -> None:
    noised = task({"task": FOUR} if rule == "four" else {"task.threshold": rule})
    size = st.floats(-1e5, 1e5) | st.floats(-3, 3)
    sums, judging = (
        data.draw(hnp.arrays(float, noised.size, elements=size)) for _ in ("test", "validation")
    )
    if data.draw(st.booleans()):
        sums[0] = abs(sums[0])

    threshold = noised.threshold(judging)
    found = noised.metrics(sums, threshold)

    assert 0 < threshold < 1
    assert found["records"] >= 0
    assert found["loss"] is None or 0 <= found["loss"] <= noised.loss_bound * (1 + 1e-12)
    for name in ("accuracy", "auc", "sensitivity", "specificity", "precision"):
        value = found.get(name)
        assert value is None or -1e-9 <= value <= 1 + 1e-9, name


def test_of_noise_alone_nothing_is_known(task: Callable[..., NoisedClassification]) -> None:
    noised = task({"task.threshold": "max_accuracy"})
    sums = np.full(noised.size, 40.0)
    sums[0] = -3.0

    assert noised.metrics(sums) == {"records": 0, "loss": None, "accuracy": None, "auc": None}
    assert noised.threshold(sums) == noised.threshold(None) == 0.5


@pytest.mark.parametrize("rule", [0.5, 0.3, "max_accuracy", "max_balanced_accuracy", "four"])
def test_with_little_noise_metrics_are_nearly_those_without(
    rule: Any,  # noqa: ANN401
    task: Callable[..., NoisedClassification],
    study_with: StudyWith,
) -> None:
    """Of a thousand patients with a deviation of 1 in every sum."""
    classes = 4 if rule == "four" else 2
    changes: dict[str, object] = {"task": FOUR} if rule == "four" else {"task.threshold": rule}
    noised, plain = task(changes), task_of(study_with(changes))
    logits, labels = records(1000, classes=classes)
    rng = np.random.default_rng(4)
    sums = exact(noised, logits, labels) + rng.normal(size=noised.size)
    wanted_sums = plain.sums(logits, labels)
    threshold, wanted_threshold = noised.threshold(sums), plain.threshold(wanted_sums)

    found = noised.metrics(sums, threshold)
    wanted = plain.metrics(wanted_sums, wanted_threshold)

    assert found["records"] == pytest.approx(1000, abs=5)
    few_bins_cannot_tell = {"average_precision", "brier", "calibration_error"}
    assert set(wanted) - set(found) == few_bins_cannot_tell
    for name in set(found) - {"records", "threshold"}:
        # A chosen threshold is an edge of 16 bins: what it trades for what is nobody's figure.
        if isinstance(rule, str) and name in {"sensitivity", "specificity", "precision", "f1"}:
            continue
        assert found[name] == pytest.approx(wanted[name], abs=0.02), name


def test_a_threshold_of_the_study_s_is_met_exactly(
    task: Callable[..., NoisedClassification],
) -> None:
    noised, (logits, labels) = task({"task.threshold": 0.3}), records(500)
    called = torch.softmax(logits.double(), dim=1)[:, 1] >= 0.3

    found = noised.metrics(exact(noised, logits, labels), noised.threshold(None))

    assert found["accuracy"] == pytest.approx(float((called == labels).double().mean()))
    assert found["sensitivity"] == pytest.approx(float(called[labels == 1].double().mean()))


def test_a_chosen_threshold_is_the_best_edge_also_for_other_records(
    task: Callable[..., NoisedClassification],
) -> None:
    noised, (logits, labels) = task({"task.threshold": "max_accuracy"}), records(2000)
    logits = logits + torch.tensor([1.5, 0.0])  # the model says the finding too seldom
    sums = exact(noised, logits, labels)

    chosen = noised.threshold(sums)

    assert chosen < 0.4
    best = noised.metrics(sums, chosen)["accuracy"]
    assert best > noised.metrics(sums, 0.5)["accuracy"] + 0.02
    called = torch.softmax(logits.double(), dim=1)[:, 1] >= chosen
    assert best == pytest.approx(float((called == labels).double().mean()))


def test_noisy_sums_pass_through_a_secure_sum(task: Callable[..., NoisedClassification]) -> None:
    """They are no whole numbers, and may be negative."""
    noised = task()
    rng = np.random.default_rng(0)
    each = rng.normal(0, 1e4, (4, noised.size))
    code = Encoding(Layout(0, noised.size, noised.reals), FedAvg(), hospitals=4)
    words = [code.encode(judged(one), rng=rng) for one in each]

    total = code.decode(np.sum(words, axis=0, dtype=np.uint32)).metrics

    assert np.abs(total - each.sum(axis=0)).max() <= 4 * 2**-17 + 1e-9
