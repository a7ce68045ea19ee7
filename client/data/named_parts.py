"""Parts that the hospital's file says by patients' names, as for a published division."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedward.client.data.any_source import NamedParts
from fedward.client.data.faults import Faults
from fedward.client.data.records import Fact, RawRecords
from fedward.study.errors import DataError


def with_named_parts(raw: RawRecords, parts: NamedParts | None, faults: Faults) -> RawRecords:
    """The records of the patients who are named, each in the part that names its patient.

    Args:
        raw: The records, names of one patient already made one.
        parts: Who is for what; None for records as they are.
        faults: Where records were left out as faulty, a name may be missing with them.

    Returns:
        The same records without those of patients whom nobody names; they are counted.

    Raises:
        DataError: The files say parts too, or no record is of a patient who is named: a
            misspelling would leave a patient out.
    """
    if parts is None:
        return raw
    if raw.parts is not None:
        raise DataError(
            "the files say which record is for which part, and [data] parts says it too",
            todo="take parts out of hospital.toml, or the column (key) part out of the files",
        )
    part_of = parts.by_name
    different, place = np.unique(raw.names, return_inverse=True)
    if not faults.rows and not set(map(str, different)).issuperset(part_of):
        raise DataError(
            "no record is of a patient that [data] parts names",
            todo="mend parts in hospital.toml; of several names that same_patient says are one's, "
            "the first counts",
        )
    assigned = np.array([part_of.get(str(name), "") for name in different], dtype="<U10")
    assigned = assigned[place.reshape(-1)]
    named = assigned != ""
    kept = replace(raw, parts=assigned).chosen(named)
    left = len(raw) - len(kept)
    if not left:
        return kept
    fact = Fact("left out", f"{left} records are of patients whom [data] parts does not name")
    return replace(kept, dropped=raw.dropped + left, facts=(*raw.facts, fact))
