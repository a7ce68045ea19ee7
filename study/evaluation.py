"""What a run tells of its final model beside the figures: subgroups, and how sure they are."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Annotated, NamedTuple

from pydantic import Field, FiniteFloat, model_validator

from fedward.study.any_data import Scalar, label_text
from fedward.study.frozen import Frozen

MOST_CELLS = 64
"""Of all subgroups together."""

_FEWEST_REPLICATES = 20
SubgroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}$")]


class Cell(NamedTuple):
    """One cell of a subgroup, as people call both."""

    subgroup: str
    name: str


class Subgroup(Frozen):
    """Records of the test part by what a column says: by its values, or in bands of a number.

    Attributes:
        column: Of the hospital's table, as the study calls it.
        values: A cell for each of these values.
        edges: Rising; cells are below the first, from each edge to the next, and from the last on.
    """

    column: Annotated[str, Field(min_length=1, max_length=200)]
    values: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    edges: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _by_one_of_two(self) -> Subgroup:
        if (self.values is None) == (self.edges is None):
            raise ValueError("exactly one of values and edges")
        texts = [label_text(value) for value in self.values or ()]
        if len(set(texts)) != len(texts):
            raise ValueError("each value once")
        edges = self.edges or ()
        if any(low >= high for low, high in pairwise(edges)):
            raise ValueError("edges that rise")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What people call the cells, in order."""
        if self.edges is None:
            return tuple(label_text(value) for value in self.values or ())
        low, high = self.edges[0], self.edges[-1]
        between = pairwise(self.edges)
        return (
            f"below {low:g}",
            *(f"{start:g} to below {end:g}" for start, end in between),
            f"{high:g} or more",
        )


class Evaluation(Frozen):
    """How the final model is judged on the test part, beside its figures over everybody.

    Attributes:
        replicates: Bootstrap replicates that intervals are read from; none with 0.
        fewest: A cell of fewer patients is hidden.
        subgroups: By what people call them.
    """

    replicates: Annotated[int, Field(ge=0, le=1000)] = 200
    fewest: Annotated[int, Field(ge=1, le=1000)] = 10
    subgroups: dict[SubgroupName, Subgroup] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bounded(self) -> Evaluation:
        if 0 < self.replicates < _FEWEST_REPLICATES:
            raise ValueError(f"replicates = 0, or at least {_FEWEST_REPLICATES}")
        if len(self.cells) > MOST_CELLS:
            raise ValueError(f"at most {MOST_CELLS} cells in all subgroups, not {len(self.cells)}")
        columns = Counter(group.column for group in self.subgroups.values())
        if again := [column for column, count in columns.items() if count > 1]:
            raise ValueError(
                f"one subgroup for each column, not several for {again[0]!r}: subtracting their "
                "cells could tell of a single patient"
            )
        return self

    @property
    def ordered(self) -> tuple[tuple[str, Subgroup], ...]:
        """The subgroups by name: the order in the file means nothing, and is in no digest."""
        return tuple(sorted(self.subgroups.items()))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, subgroup by subgroup."""
        return tuple(Cell(name, cell) for name, group in self.ordered for cell in group.names)
