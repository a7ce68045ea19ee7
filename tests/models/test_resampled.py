"""The form of what leaves for subgroups and intervals: bounded, known to all, and exact."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedward.models.resampled import MOST, Resampled, Taken, interval, resampled_of
from fedward.models.task import task_of
from fedward.privacy.contribution import Layout
from fedward.study.errors import StudyError
from fedward.study.evaluation import Evaluation
from fedward.study.study import Study
from fedward.study.task import RegressionTask

StudyWith = Callable[[Mapping[str, object]], Study]
GROUPS: dict[str, Any] = {
    "sex": {"column": "sex", "values": ["f", "m"]},
    "age": {"column": "age", "edges": [50]},
}


def form_of(study: Study) -> Resampled:
    found = resampled_of(study, task_of(study))
    assert found is not None
    return found


def test_a_study_without_the_table_adds_nothing(study_with: StudyWith) -> None:
    study = study_with({})
    assert resampled_of(study, task_of(study)) is None


def test_sums_are_taken_apart_as_they_were_put_together(study_with: StudyWith) -> None:
    form = form_of(study_with({"evaluation": {"replicates": 20, "subgroups": GROUPS}}))
    size, cells = form.task.size, 4
    rng = np.random.default_rng(0)
    given = Taken(
        rng.normal(size=1 + cells),
        rng.normal(size=2),
        rng.normal(size=(cells, size)),
        rng.normal(size=(1 + cells, 20, size)),
    )
    packed = form.packed(given)

    assert packed.shape == (form.size,) == (1 + cells + 2 + (cells + (1 + cells) * 20) * size,)
    for one, other in zip(form.taken(packed), given, strict=True):
        assert (one == other).all()


def test_reals_are_the_places_of_the_tasks_reals(study_with: StudyWith) -> None:
    form = form_of(study_with({"evaluation": {"replicates": 20, "subgroups": GROUPS}}))
    marked = np.zeros(form.size)
    marked[list(form.reals)] = 1
    taken = form.taken(marked)

    assert not taken.patients.any()
    assert not taken.elsewhere.any()
    for block in (*taken.cells, *taken.replicates.reshape(-1, form.task.size)):
        assert np.flatnonzero(block).tolist() == list(form.task.reals)
    judged = Layout(0, form.task.size, form.task.reals).of_models(2)
    layout = judged.with_more(form.size, form.reals)
    assert layout.metrics == 2 * form.task.size + form.size
    assert layout.reals[: len(judged.reals)] == judged.reals
    assert max(layout.reals) < layout.metrics


def test_what_would_be_too_much_is_refused_with_what_would_not(study_with: StudyWith) -> None:
    classes = [f"class {number}" for number in range(20)]
    changes: dict[str, Any] = {
        "task": {"kind": "multiclass", "classes": classes},
        "evaluation": {"subgroups": GROUPS},
    }
    study = study_with(changes)
    with pytest.raises(StudyError) as caught:
        resampled_of(study, task_of(study))
    most = int(caught.value.allowed.split()[2])
    changes["evaluation"] = {"subgroups": GROUPS, "replicates": max(most, 20)}
    study = study_with(changes)

    assert caught.value.key == "evaluation.replicates"
    assert 20 <= most < 200
    assert MOST * 0.95 < form_of(study).size <= MOST


def test_a_patient_counts_once_on_average_and_never_by_another(study_with: StudyWith) -> None:
    form = form_of(study_with({"evaluation": {"replicates": 1000}}))
    counts = form.drawn(50, np.random.default_rng(1)).astype(float)

    assert counts.shape == (1000, 50)
    assert counts.mean() == pytest.approx(1, abs=0.02)
    assert counts.var() == pytest.approx(1, abs=0.04)
    between = np.corrcoef(counts.T)[np.triu_indices(50, 1)]
    assert np.abs(between).max() < 0.16  # 1225 correlations of 1000 draws


def test_counts_take_a_byte_each_while_they_are_drawn(study_with: StudyWith) -> None:
    form = form_of(study_with({"evaluation": {"replicates": 1000}}))
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        counts = form.drawn(4000, rng)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert counts.nbytes == 4_000_000
    assert most < 1.2 * counts.nbytes


def test_a_count_beyond_a_byte_is_the_most_that_a_byte_holds(study_with: StudyWith) -> None:
    class Often:
        def poisson(self, mean: float, size: int) -> np.ndarray[Any, Any]:
            return np.full(size, 256)

    form = form_of(study_with({"evaluation": {"replicates": 20}}))
    assert (form.drawn(3, Often()) == 255).all()  # type: ignore[arg-type]


def test_the_interval_is_that_of_theory() -> None:
    """Of a mean it is close to the normal one: mean plus or minus 1.96 standard errors."""
    task = task_of_regression()
    form = Resampled(task, Evaluation(replicates=1000))
    rng = np.random.default_rng(2)
    truth = torch.from_numpy(rng.uniform(-1, 1, 400).astype(np.float32))
    outputs = truth[:, None] + torch.from_numpy(rng.normal(0, 0.2, (400, 1)).astype(np.float32))
    each = np.stack([task.sums(outputs[n : n + 1], truth[n : n + 1]) for n in range(400)])
    replicates = form.drawn(400, rng).astype(float) @ each
    ends = interval([task.metrics(sums)["mae"] for sums in replicates])
    errors = (outputs[:, 0] - truth).abs().double().numpy()
    wide = 1.96 * errors.std() / 20

    assert ends is not None
    assert ends[0] == pytest.approx(errors.mean() - wide, abs=0.15 * wide)
    assert ends[1] == pytest.approx(errors.mean() + wide, abs=0.15 * wide)


def task_of_regression() -> Any:  # noqa: ANN401
    from fedward.models.tasks.regression import Regression

    return Regression(RegressionTask(kind="regression", bounds=(-1.0, 1.0)))


def test_an_interval_of_what_is_mostly_not_known_is_none() -> None:
    assert interval([]) is None
    assert interval([None] * 40) is None
    assert interval([*[None] * 3, *[0.5] * 37]) is None
    assert interval([None, *[0.5] * 39]) == (0.5, 0.5)
    assert interval(list(np.linspace(0, 1, 201))) == pytest.approx((0.025, 0.975))
