"""What every source of records has in common: patients, rows, names of columns, parts."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen
from fedward.study.messages import Part


class NamedParts(Frozen):
    """Patients by their names, where a division is given: whom it does not name is left out.

    Attributes:
        train: To train on.
        validation: To choose thresholds on.
        test: To judge on.
    """

    train: Annotated[tuple[str, ...], Field(min_length=1)]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_part_a_name(self) -> NamedParts:
        if len(self.by_name) != len(self.train) + len(self.validation) + len(self.test):
            raise ValueError("each name once, in one of train, validation and test")
        return self

    @property
    def by_name(self) -> dict[str, Part]:
        """The part of each patient who is named."""
        parts: dict[Part, tuple[str, ...]] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return {name: part for part, names in parts.items() for name in names}


class AnySource(Frozen):
    """What every source of records has in common.

    Attributes:
        patient: What names the patient (a column, a key), or `record` if every record is a
            patient. Without it every record counts as one, and no private study is trained.
        rows: A NumPy file with the numbers (from 0) of the records that are this hospital's.
        columns_are: What this hospital calls columns and channels that the study names, where that
            is something else; `file` and `part` too.
        same_patient: Lists of names that are one patient's.
        parts: Which patients are for which part, for a study whose parts are as the files say.
    """

    patient: str | None = None
    rows: str | None = None
    columns_are: dict[str, str] = Field(default_factory=dict)
    same_patient: tuple[Annotated[tuple[str, ...], Field(min_length=2)], ...] = ()
    parts: NamedParts | None = None

    @model_validator(mode="after")
    def _one_group_a_name(self) -> AnySource:
        names = [name for group in self.same_patient for name in group]
        if len(set(names)) != len(names):
            raise ValueError("each name in one group of same_patient only")
        if names and self.patient is None:
            raise ValueError("patient, where same_patient says which names are one's")
        if self.parts is not None and self.patient is None:
            raise ValueError("patient, where parts says which patients are for what")
        return self

    def column(self, wanted: str) -> str:
        """What this hospital calls a column of the study's."""
        return self.columns_are.get(wanted, wanted)

    @property
    def named_by(self) -> str | None:
        """What names the patient; None where every record is one."""
        return None if self.patient == "record" else self.patient

    def patient_column(self, columns: Container[str]) -> str | None:
        """What names the patient among these columns; None where every record is one.

        It may be said as the files call it, or by a name that `columns_are` maps to theirs.
        """
        if self.named_by is None or self.named_by in columns:
            return self.named_by
        theirs = self.column(self.named_by)
        return theirs if theirs in columns else self.named_by
