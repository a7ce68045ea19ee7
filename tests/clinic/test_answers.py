"""Outputs mean what the task says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fedward.clinic.answers import answers
from fedward.study.task import (
    ClassTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
)

NOTHING = torch.zeros(1, 1)


def test_a_finding_is_called_from_its_threshold_on() -> None:
    task = ClassTask(kind="binary", classes=("no", "yes"))
    outputs = torch.tensor([[0.0, math.log(0.25 / 0.75)]])
    (answer,) = answers(outputs, NOTHING, task, threshold=0.2)
    assert answer.values == pytest.approx({"no": 0.75, "yes": 0.25})
    assert answer.called == ("yes",)
    assert answers(outputs, NOTHING, task, threshold=0.3)[0].called == ("no",)


def test_the_likeliest_of_several_classes_and_all_likely_findings_are_called() -> None:
    task = ClassTask(kind="multiclass", classes=("a", "b", "c"))
    (answer,) = answers(torch.tensor([[0.0, 2.0, 1.0]]), NOTHING, task, threshold=0.99)
    assert answer.called == ("b",)
    findings = MultilabelTask(kind="multilabel", classes=("a", "b"), threshold=0.5)
    (answer,) = answers(torch.tensor([[3.0, 1.0]]), NOTHING, findings, threshold=0.6)
    assert answer.called == ("a", "b")


def test_numbers_have_their_own_unit_and_survival_falls() -> None:
    task = RegressionTask(kind="regression", bounds=(20.0, 100.0))
    assert answers(torch.tensor([[0.5]]), NOTHING, task, threshold=0.5)[0].values == {"value": 80.0}
    survival = SurvivalTask(kind="survival", intervals=(1.0, 2.0))
    (answer,) = answers(torch.zeros(1, 2), NOTHING, survival, threshold=0.5)
    assert list(answer.values.values()) == pytest.approx([0.5, 0.25])


def test_pixels_and_what_is_unusual() -> None:
    outputs = torch.zeros(1, 2, 2, 2)
    outputs[0, 1, 0, 0] = 1
    task = SegmentationTask(kind="segmentation", classes=("none", "lesion"))
    (answer,) = answers(outputs, NOTHING, task, threshold=0.5)
    assert answer.values == {"none": 0.75, "lesion": 0.25}
    assert answer.mask is not None
    assert answer.mask.tolist() == [[1, 0], [0, 0]]
    made: Any = torch.tensor([[1.0, 3.0, 0.0]])
    (answer,) = answers(
        made, torch.tensor([[1.0, 1.0]]), ReconstructionTask(kind="reconstruction"), threshold=0.5
    )
    assert answer.values == {"error": 2.0}
