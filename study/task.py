"""What a model learns to say, and what a record's label is then.

kind            label of a record                     labels of n records
binary          the class                             (n,) int64
multiclass      the class                             (n,) int64
multilabel      for each class, yes or no             (n, classes) float32, 0 or 1
regression      a number                              (n,) float32
survival        a time, and whether it is the event's (n, 2) float32: time, 1 or 0
segmentation    a class for each pixel                (n, height, width) int64
reconstruction  nothing: the record itself            (n, 0) float32
generation      the class, or nothing                 (n,) int64, or (n, 0) float32
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen

ClassNames = Annotated[tuple[str, ...], Field(min_length=2)]
ClassWeights = tuple[Annotated[float, Field(gt=0, le=1000)], ...] | None
"""Public numbers, one a class: constants of the study, not counted from the records."""


def _refuse_other_weights(weights: ClassWeights, classes: tuple[str, ...]) -> None:
    if weights is not None and len(weights) != len(classes):
        raise ValueError(f"as many class_weights as classes, not {len(weights)} for {len(classes)}")


class ClassTask(Frozen):
    """Which of several classes a record is of; exactly one is right.

    Attributes:
        kind: `binary` (two classes, the second is the finding) or `multiclass`.
        classes: Names of the classes, in the order of their numbers.
        threshold: Binary only: the probability from which the finding is called, or how to choose
            it on the validation part (never on the test part).
        class_weights: What the loss of a record of each class is multiplied with in training.
    """

    kind: Literal["binary", "multiclass"]
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    threshold: (
        Annotated[float, Field(gt=0, lt=1)] | Literal["max_accuracy", "max_balanced_accuracy"]
    ) = 0.5
    class_weights: ClassWeights = None

    @model_validator(mode="after")
    def _classes_fit(self) -> ClassTask:
        _refuse_other_weights(self.class_weights, self.classes)
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(f"exactly 2 classes when kind is binary, not {len(self.classes)}")
        _refuse_confusing(self.classes)
        if self.kind == "multiclass" and self.threshold != 0.5:
            raise ValueError("a threshold only when kind is binary")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a record."""
        return len(self.classes)

    @property
    def label_columns(self) -> int:
        """Columns that the label of a record is in."""
        return 1


class MultilabelTask(Frozen):
    """Which of several findings a record has: none, one or many.

    Attributes:
        classes: Names of the findings, in the order of the label's columns.
        threshold: The probability from which a finding is called.
        class_weights: For each finding, what its part of the loss is multiplied with in training
            in the records that have it; in those that have not it counts 1.
    """

    kind: Literal["multilabel"]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    class_weights: ClassWeights = None

    @model_validator(mode="after")
    def _each_once(self) -> MultilabelTask:
        _refuse_other_weights(self.class_weights, self.classes)
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes with different names")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a record."""
        return len(self.classes)

    @property
    def label_columns(self) -> int:
        """Columns that the label of a record is in."""
        return len(self.classes)


class _WithoutClasses(Frozen):
    """A task whose records are of no class."""

    @property
    def classes(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def label_columns(self) -> int:
        """Columns that the label of a record is in."""
        return 1


class RegressionTask(_WithoutClasses):
    """A number.

    Attributes:
        bounds: Least and largest value, public; whatever is beyond counts as the bound. The model
            learns the number mapped to -1 to 1, errors are told in the number's own unit.
    """

    kind: Literal["regression"]
    bounds: tuple[float, float]

    @model_validator(mode="after")
    def _in_order(self) -> RegressionTask:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError("two bounds, the lower one first")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a record."""
        return 1


class SurvivalTask(_WithoutClasses):
    """How long until something happens, where some were not watched for long enough.

    Attributes:
        intervals: Upper ends of the intervals of time, rising, in the unit of the time column.
        loss: `hazards`: for each interval the chance that it happens there if it did not before
            (Gensheimer and Narasimhan 2019), the only one that privacy allows; or `cox`: partial
            likelihood (Cox 1972), whose risk sets join the records of a batch.
    """

    kind: Literal["survival"]
    intervals: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2)]
    loss: Literal["hazards", "cox"] = "hazards"

    @model_validator(mode="after")
    def _rising(self) -> SurvivalTask:
        if any(b <= a for a, b in zip(self.intervals, self.intervals[1:], strict=False)):
            raise ValueError("rising upper ends")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a record."""
        return len(self.intervals) if self.loss == "hazards" else 1

    @property
    def label_columns(self) -> int:
        """Columns that the label of a record is in: the time, and whether it happened."""
        return 2


class SegmentationTask(Frozen):
    """What is where in an image.

    Attributes:
        classes: Names of the classes in the order of their numbers; the first is the background.
        loss: `cross_entropy` of the pixels, or `dice`: the same and 1 - Dice of each record.
        class_weights: What the cross-entropy of a pixel of each class is multiplied with in
            training; the Dice part, in which classes count alike however large they are, has none.
    """

    kind: Literal["segmentation"]
    classes: ClassNames
    loss: Literal["cross_entropy", "dice"] = "dice"
    class_weights: ClassWeights = None

    @model_validator(mode="after")
    def _weights_fit(self) -> SegmentationTask:
        _refuse_other_weights(self.class_weights, self.classes)
        return self

    @property
    def outputs(self) -> int:
        """Channels that the model gives for a record."""
        return len(self.classes)

    @property
    def label_columns(self) -> int:
        """Columns that the label of a record is in: the name of the mask's file."""
        return 1


class ReconstructionTask(_WithoutClasses):
    """The record itself, from few numbers: features, or how unusual a record is."""

    kind: Literal["reconstruction"]

    @property
    def outputs(self) -> int:
        """Numbers that the model gives beside the record."""
        return 0

    @property
    def label_columns(self) -> int:
        """None: no label is read."""
        return 0


class GenerationTask(Frozen):
    """Images like the records, of nobody.

    Attributes:
        classes: Names of the classes that images are made of, in the order of their numbers; none
            where no label is read.
    """

    kind: Literal["generation"]
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _none_or_several(self) -> GenerationTask:
        if len(self.classes) == 1:
            raise ValueError("no classes, or two or more")
        _refuse_confusing(self.classes)
        return self

    @property
    def outputs(self) -> int:
        """Numbers that the discriminator gives for a record."""
        return max(1, len(self.classes))

    @property
    def label_columns(self) -> int:
        """Columns that the label of a record is in; none where no label is read."""
        return 1 if self.classes else 0


def _refuse_confusing(classes: tuple[str, ...]) -> None:
    """A label must mean one class."""
    if len(set(classes)) != len(classes):
        raise ValueError("classes with different names")
    numbers = {str(number): name for number, name in enumerate(classes)}
    if confused := [name for name in classes if numbers.get(name, name) != name]:
        raise ValueError(f"classes not named by another's number, as {confused[0]!r} is")


Task = (
    ClassTask
    | MultilabelTask
    | RegressionTask
    | SurvivalTask
    | SegmentationTask
    | ReconstructionTask
    | GenerationTask
)
