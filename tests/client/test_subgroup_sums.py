"""What a hospital adds of subgroups and replicates: the task's own sums over chosen records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.client.subgroup_sums import subgroup_sums
from fedward.models.resampled import Resampled, Taken
from fedward.models.tasks.any_task import Sums, Task
from fedward.models.tasks.classification import Classification
from fedward.models.tasks.multilabel import Multilabel
from fedward.models.tasks.regression import Regression
from fedward.models.tasks.segmentation import Segmentation
from fedward.models.tasks.survival import Survival
from fedward.study.evaluation import Evaluation, Subgroup
from fedward.study.task import (
    ClassTask,
    MultilabelTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
)

TABLE = Evaluation(
    replicates=20,
    subgroups={
        "sex": Subgroup(column="sex", values=("f", "m")),
        "age": Subgroup(column="age", edges=(50.0,)),
    },
)
COUNT, PATIENTS, SEED = 150, 60, 3


def labels_of(kind: str, rng: np.random.Generator) -> tuple[Task, Any, int]:
    """A task, labels for it, and how many numbers a model gives."""
    match kind:
        case "binary":
            task = ClassTask(kind="binary", classes=("no", "yes"))
            return Classification(task), rng.integers(0, 2, COUNT), 2
        case "multiclass":
            three = ClassTask(kind="multiclass", classes=("a", "b", "c"))
            return Classification(three), rng.integers(0, 3, COUNT), 3
        case "multilabel":
            found = Multilabel(MultilabelTask(kind="multilabel", classes=("a", "b")))
            return found, rng.integers(0, 2, (COUNT, 2)).astype(np.float32), 2
        case "regression":
            bounds = RegressionTask(kind="regression", bounds=(-1.0, 1.0))
            return Regression(bounds), rng.uniform(-1, 1, COUNT).astype(np.float32), 1
        case "segmentation":
            masks = SegmentationTask(kind="segmentation", classes=("none", "some"))
            return Segmentation(masks), rng.integers(0, 2, (COUNT, 3, 3)), 18
        case _:
            ends = SurvivalTask(kind="survival", intervals=(0.5, 1.0, 2.0))
            seen = rng.integers(0, 2, COUNT)
            times = rng.exponential(1.0, COUNT)
            return Survival(ends), np.stack([times, seen], axis=1).astype(np.float32), 3


class Shaped(nn.Module):
    """A linear model whose outputs have the shape that a task wants."""

    def __init__(self, outputs: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear, self.shape = nn.Linear(5, outputs), shape

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.linear(inputs)
        return outputs.reshape(len(inputs), *self.shape)


def made(kind: str) -> tuple[nn.Module, Records, Resampled]:
    rng = np.random.default_rng(1)
    task, labels, outputs = labels_of(kind, rng)
    torch.manual_seed(0)
    model = Shaped(outputs, (2, 3, 3) if kind == "segmentation" else (outputs,))
    records = Records(
        torch.from_numpy(rng.normal(size=(COUNT, 5)).astype(np.float32)),
        torch.from_numpy(labels),
        torch.from_numpy(rng.integers(0, PATIENTS, COUNT) * 7),
        cells=np.stack([rng.integers(0, 2, COUNT), rng.integers(-1, 2, COUNT)], axis=1),
    )
    return model, records, Resampled(task, TABLE)


def chosen(records: Records, rows: np.ndarray[Any, Any]) -> Records:
    some = torch.from_numpy(rows)
    return Records(records.inputs[some], records.labels[some], records.patients[some])


def taken(
    model: nn.Module,
    records: Records,
    form: Resampled,
    **given: Any,  # noqa: ANN401
) -> Taken:
    return form.taken(subgroup_sums(model, records, form, np.random.default_rng(SEED), **given))


def same(found: Sums, expected: Sums) -> None:
    """Counts exactly, losses up to their rounding to float32."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


KINDS = ["binary", "multiclass", "multilabel", "regression", "segmentation", "survival"]


@pytest.mark.parametrize("kind", KINDS)
def test_cells_and_replicates_are_the_sums_over_their_records(kind: str) -> None:
    model, records, form = made(kind)
    found = taken(model, records, form)
    assert records.cells is not None
    patients = records.patients.numpy()
    rng = np.random.default_rng(SEED)
    members = [
        np.ones(COUNT, bool),
        *(records.cells[:, 0] == place for place in range(2)),  # age
        *(records.cells[:, 1] == place for place in range(2)),  # sex
    ]

    def sums(rows: np.ndarray[Any, Any]) -> Sums:
        return metric_sums(model, chosen(records, rows), form.task)

    for group, member in enumerate(members):
        rows = np.flatnonzero(member)
        people, of = np.unique(patients[rows], return_inverse=True)
        counts = form.drawn(len(people), rng)
        assert found.patients[group] == len(set(patients[rows]))
        if group:
            same(found.cells[group - 1], sums(rows))
        for number in (0, 7, 19):
            again = np.repeat(rows, counts[number][of])
            same(found.replicates[group, number], sums(again))
    outside = [set(patients[records.cells[:, place] < 0]) for place in range(2)]
    assert found.elsewhere.tolist() == [len(nobody) for nobody in outside] == [0, len(outside[1])]


def test_all_of_a_patients_records_count_equally_often() -> None:
    """The bootstrap is over patients: one with two records is drawn with both, or with neither."""
    model, records, form = made("binary")
    twice = Records(
        torch.cat([records.whole] * 2),
        torch.cat([records.whole_labels] * 2),
        torch.cat([records.patients] * 2),
        cells=None if records.cells is None else np.concatenate([records.cells] * 2),
    )
    once, both = taken(model, records, form), taken(model, twice, form)

    assert both.patients.tolist() == once.patients.tolist()
    same(both.replicates, 2 * once.replicates)


@pytest.mark.parametrize(("kind", "replicates"), [("regression", 1000), ("survival", 90)])
def test_no_draw_links_what_a_patient_adds_to_two_cells(kind: str, replicates: int) -> None:
    """How often a patient counts is drawn for each cell anew, and for everybody."""
    model, records, form = made(kind)
    form = Resampled(form.task, TABLE.model_copy(update={"replicates": replicates}))
    alone = replace(chosen(records, np.zeros(1, np.int64)), cells=np.zeros((1, 2), np.int64))
    counts = taken(model, alone, form).replicates[[0, 1, 3], :, 0]  # everybody, an age, a sex

    assert counts.mean(axis=1) == pytest.approx(1, abs=3.5 / replicates**0.5)
    between = np.atleast_2d(np.corrcoef(counts))[np.triu_indices(3, 1)]
    assert np.abs(between).max() < 3.5 / replicates**0.5


class Kept:
    """A hospital's draws, and what they were, in order."""

    def __init__(self, seed: int) -> None:
        self._rng, self.drawn = np.random.default_rng(seed), list[np.ndarray[Any, Any]]()

    def poisson(self, mean: float, size: int) -> np.ndarray[Any, Any]:
        self.drawn.append(self._rng.poisson(mean, size=size))
        return self.drawn[-1]


def test_hospitals_add_up_to_the_pooled_bootstrap_with_the_same_draws() -> None:
    model, records, form = made("binary")
    here = np.flatnonzero(records.patients.numpy() < 7 * 25)
    there = np.flatnonzero(records.patients.numpy() >= 7 * 25)
    assert records.cells is not None
    both, drawn = np.zeros(form.size), []
    for seed, rows in enumerate((here, there)):
        part = replace(chosen(records, rows), cells=records.cells[rows])
        kept = Kept(seed)
        both += subgroup_sums(model, part, form, kept)  # type: ignore[arg-type]
        drawn.append(kept.drawn)

    class Same:
        """Draws for everybody what the two hospitals drew; patients' numbers rise with both."""

        rows = zip(*drawn, strict=True)

        def poisson(self, mean: float, size: int) -> np.ndarray[Any, Any]:
            found = np.concatenate(next(self.rows))
            assert (mean, size) == (1.0, len(found))
            return found

    pooled = subgroup_sums(model, records, form, Same())  # type: ignore[arg-type]
    assert next(Same.rows, None) is None
    same(both, pooled)
    whole = np.ones(form.size, bool)
    whole[list(form.reals)] = False
    assert (both[whole] == pooled[whole]).all()


def test_nobody_adds_nothing() -> None:
    model, records, form = made("binary")
    assert records.cells is not None
    nobody = replace(chosen(records, np.zeros(0, np.int64)), cells=records.cells[:0])

    assert not subgroup_sums(model, nobody, form, np.random.default_rng(0)).any()


def test_a_model_that_grew_beyond_all_bounds_tells_nothing_in_a_private_study() -> None:
    model, records, form = made("binary")
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(float("nan"))

    assert not np.isfinite(form.packed(taken(model, records, form))).all()
    assert np.isfinite(form.packed(taken(model, records, form, bounded=True))).all()


def test_records_without_cells_are_never_taken_for_those_of_no_cell() -> None:
    model, records, form = made("binary")
    with pytest.raises(ValueError, match="nobody knows"):
        taken(model, replace(records, cells=None), form)
