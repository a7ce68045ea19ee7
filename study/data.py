"""What data every hospital must offer: the part of the contract about records.

A hospital keeps its own files and says in its own `hospital.toml` where they are. The study says
what comes out of them: the features and their order, the label, and constants of scaling that are
public and common to all hospitals (a hospital's own mean would hide how hospitals differ).
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen

Scalar = bool | int | float | str


def label_text(label: object) -> str:
    """One text for 1, 1.0, "1" and "1.0", since files write the same value in many ways."""
    text = str(label).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


class GivenParts(Frozen):
    """The hospital's files themselves say which record is for training, validation and test."""

    by: Literal["file"] = "file"


class _Shares(Frozen):
    """A hospital's patients are divided in shares.

    Attributes:
        train: Share of patients to train on.
        validation: Share to choose thresholds on; may be 0.
        test: Share to judge on.
        seed: Seed of the division.
    """

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _whole(self) -> _Shares:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test = 1, not {total:g}")
        return self


class HashedParts(_Shares):
    """Each patient's part follows from the patient's name alone, by a hash with the study's seed.

    Who else is there, and which class anybody is of, changes nothing: privacy needs that, and a
    patient who is added moves nobody. The shares are kept on average.
    """

    by: Literal["hash"] = "hash"


class StratifiedParts(_Shares):
    """A hospital's patients are divided at random, with the classes' shares kept where possible.

    The division is scikit-learn's `train_test_split`: test first, then validation from the rest.
    One patient more changes the part of many others, so no private study may ask for it.
    """

    by: Literal["random"] = "random"


PartsRule = GivenParts | HashedParts | StratifiedParts


_Bound = Annotated[float, Field(ge=-1e15, le=1e15)]
_NARROWEST = 1e-9  # between two bounds


class Feature(Frozen):
    """One column of a table.

    Attributes:
        center: Subtracted from a number.
        scale: Divided by, after that.
        categories: The column's values, if it is no number: one 0/1 input for each.
        absent: A number that means "not measured": the input is then 0, and a second input is 1.
        bounds: Least and largest value, public; whatever is beyond counts as the bound. Center and
            scale are then measured before the first round, where the study's scaling is `measured`.
    """

    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    categories: Annotated[tuple[Scalar, ...], Field(min_length=2)] | None = None
    absent: float | None = None
    bounds: tuple[_Bound, _Bound] | None = None

    @model_validator(mode="after")
    def _one_meaning(self) -> Feature:
        numeric = (self.center, self.scale, self.absent) != (0.0, 1.0, None)
        if self.categories is not None and numeric:
            raise ValueError("either categories, or center, scale and absent")
        named = [label_text(category) for category in self.categories or ()]
        if len(set(named)) != len(named):
            raise ValueError("each category once")
        if self.bounds is None:
            return self
        if self.categories is not None or (self.center, self.scale) != (0.0, 1.0):
            raise ValueError("either bounds, or center and scale, or categories")
        low, high = self.bounds
        if not high - low >= _NARROWEST:
            raise ValueError(f"bounds that are at least {_NARROWEST:g} apart, the lower one first")
        return self

    @property
    def width(self) -> int:
        """Inputs of the model that this column becomes."""
        if self.categories is not None:
            return len(self.categories)
        return 1 if self.absent is None else 2


class Measured(NamedTuple):
    """A feature whose center and scale are measured.

    Attributes:
        name: Of the column.
        place: Of its value among the inputs.
        absent: Place of the input that says that there is no value; None if there always is one.
        low: Least value.
        high: Largest value.
    """

    name: str
    place: int
    absent: int | None
    low: float
    high: float

    @property
    def middle(self) -> float:
        """Of the bounds."""
        return self.low + self.half

    @property
    def half(self) -> float:
        """Half the distance of the bounds."""
        return (self.high - self.low) / 2


class _AnyData(Frozen):
    """What every kind of data has in common.

    Attributes:
        class_values: For each class, the raw labels that mean it; if left out, a raw label is the
            number of the class or its name.
        parts: How records are divided into training, validation and test.
    """

    class_values: tuple[tuple[Scalar, ...], ...] | None = None
    parts: Annotated[PartsRule, Field(discriminator="by")] = HashedParts()

    @property
    def validated(self) -> bool:
        """Whether there is a validation part, as far as the study says."""
        return isinstance(self.parts, GivenParts) or self.parts.validation > 0

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The features whose constants are measured before the first round, in their order."""
        return ()

    @model_validator(mode="after")
    def _one_class_a_label(self) -> _AnyData:
        named = [label_text(label) for group in self.class_values or () for label in group]
        if len(set(named)) != len(named):
            raise ValueError("each label in one group of class_values only")
        return self


class TableData(_AnyData):
    """Rows of numbers and categories.

    Attributes:
        features: The columns in the order of the model's inputs.
        label: The column that holds the label.
        missing: What to do with a row that lacks a value: `refuse` or `drop` (counted and said).
        scaling: Where center and scale come from: `given`, or `measured` over all hospitals before
            the first round, for the features with bounds.
    """

    kind: Literal["table"]
    features: Annotated[dict[str, Feature], Field(min_length=1)]
    label: str
    missing: Literal["refuse", "drop"] = "refuse"
    scaling: Literal["given", "measured"] = "given"

    @model_validator(mode="after")
    def _bounds_where_measured(self) -> TableData:
        bounded = any(feature.bounds is not None for feature in self.features.values())
        if bounded != (self.scaling == "measured"):
            raise ValueError('bounds of features and scaling = "measured" together, or neither')
        return self

    @model_validator(mode="after")
    def _label_apart(self) -> TableData:
        if self.label in self.features:
            raise ValueError(f"a label that is no feature, but {self.label!r} is both")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it."""
        return (sum(feature.width for feature in self.features.values()),)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The features whose constants are measured before the first round, in their order."""
        found, place = [], 0
        for name, feature in self.features.items():
            if feature.bounds is not None:
                absent = None if feature.absent is None else place + 1
                found.append(Measured(name, place, absent, *feature.bounds))
            place += feature.width
        return tuple(found)


class ImageData(_AnyData):
    """Images of one size.

    Attributes:
        shape: Channels, height, width.
        center: Subtracted from a pixel after its full range became 0 to 1.
        scale: Divided by, after that.
    """

    kind: Literal["images"]
    shape: tuple[
        Annotated[int, Field(ge=1, le=16)],
        Annotated[int, Field(ge=1, le=4096)],
        Annotated[int, Field(ge=1, le=4096)],
    ]
    center: float = 0.5
    scale: Annotated[float, Field(gt=0)] = 0.5

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it."""
        return self.shape


Data = TableData | ImageData
