"""Records that are another's again, number for number."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.joining import rows_named
from fedward.client.data.records import Fact, RawRecords
from fedward.client.data.stored import in_pieces


def groups_of(raw: RawRecords) -> NDArray[np.int64]:
    """For each record the place of the first one with the same inputs, shape (n,)."""
    first: dict[bytes, int] = {}
    found = np.empty(len(raw), dtype=np.int64)
    records = (record for piece in in_pieces(raw.inputs) for record in np.asarray(piece))
    for place, inputs in enumerate(records):
        record = np.ascontiguousarray(inputs + 0)  # -0.0 is 0.0
        digest = hashlib.blake2b(record.tobytes(), digest_size=16).digest()
        found[place] = first.setdefault(digest, place)
    return found


def without_repeated(raw: RawRecords) -> RawRecords:
    """Only the first of records with the same inputs; the others are counted and named."""
    first = groups_of(raw)
    repeated = first != np.arange(len(raw))
    if not repeated.any():
        return raw
    rows = raw.rows[repeated].tolist()
    fact = Fact("left out", f"{len(rows)} repeat an earlier record: {rows_named(rows)}")
    kept = raw.chosen(~repeated)
    return replace(kept, dropped=raw.dropped + len(rows), facts=(*raw.facts, fact))


def of_two_patients(raw: RawRecords) -> Fact | None:
    """Records of different patients with the same inputs, if there are any."""
    first = groups_of(raw)
    again = raw.patients != raw.patients[first]
    if not again.any():
        return None
    rows = raw.rows[again].tolist()
    return Fact("look at", f"{len(rows)} records are also another patient's: {rows_named(rows)}")


def across_parts(raw: RawRecords, assigned: NDArray[np.str_]) -> Fact | None:
    """Records of training whose inputs are in another part again, if there are any."""
    first = groups_of(raw)
    trained = np.isin(first, first[assigned == "train"])
    again = trained & (assigned != "train")
    if not again.any():
        return None
    rows = raw.rows[again].tolist()
    return Fact(
        "look at",
        f"{len(rows)} records for validation or test have the inputs of a training record: "
        f"{rows_named(rows)}",
    )
