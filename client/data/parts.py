"""Dividing a hospital's records into training, validation and test, never splitting a patient."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from fedward.client.data.records import Parts, RawRecords, Records
from fedward.client.data.stored import Stored
from fedward.privacy.framing import framed
from fedward.study.errors import DataError
from fedward.study.messages import Part
from fedward.study.parts import HashedParts, PartsRule, StratifiedParts

PARTS: tuple[Part, ...] = ("train", "validation", "test")
Assignment = NDArray[np.str_]


def divide(raw: RawRecords, rule: PartsRule, *, where: str) -> Parts:
    """The three parts of a hospital's records.

    Raises:
        DataError: Nothing is left to train on, or the files do not say what they should.
    """
    assigned = assign(raw, rule, where=where)
    parts = {part: _records(raw.chosen(assigned == part)) for part in PARTS}
    if not len(parts["train"]):
        raise DataError(
            f"no records to train on (of {len(raw)})",
            todo="check the path, the rows and the split of this hospital's data",
            where=where,
        )
    return parts


def assign(raw: RawRecords, rule: PartsRule, *, where: str) -> Assignment:
    """The part of each record, shape (n,)."""
    if isinstance(rule, StratifiedParts):
        return _at_random(raw, rule, where=where)
    if isinstance(rule, HashedParts):
        return _by_name(raw.names, rule)
    if raw.parts is None:
        raise DataError(
            "the study wants train, validation and test as the files say, but they do not say",
            todo='set by = "hash" in the study\'s [data.parts]',
            where=where,
        )
    return _as_given(raw, raw.parts, where=where)


def _as_given(raw: RawRecords, parts: Assignment, *, where: str) -> Assignment:
    if (unknown := ~np.isin(parts, PARTS)).any():
        place = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"record {int(raw.rows[place]) + 1} is for the part {str(parts[place])!r}",
            todo=f"allowed: {', '.join(PARTS)}",
            where=where,
        )
    order = np.lexsort((parts, raw.patients))
    same = raw.patients[order][1:] == raw.patients[order][:-1]
    if (torn := same & (parts[order][1:] != parts[order][:-1])).any():
        row = int(raw.rows[order[1:][torn]].min())
        raise DataError(
            f"the patient of record {row + 1} is in two parts",
            todo="put all of a patient's records into one part",
            where=where,
        )
    return parts


def _by_name(names: Assignment, rule: HashedParts) -> Assignment:
    """Every name is a point in [0, 1): first comes train, then validation, then test."""
    different, place = np.unique(names, return_inverse=True)
    points = [_point(str(name), rule.seed) for name in different]
    number = np.searchsorted([rule.train, rule.train + rule.validation], points, side="right")
    return np.array(PARTS, dtype="<U10")[number][place.reshape(-1)]


def _point(name: str, seed: int) -> float:
    digest = hashlib.sha256(framed("fedward/1/part", str(seed), _bytes(name))).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _bytes(name: str) -> bytes:
    """UTF-8, also of names of files that are none."""
    return str(name).encode("utf-8", "surrogatepass")


def _at_random(raw: RawRecords, rule: StratifiedParts, *, where: str) -> Assignment:
    patients, first = np.unique(raw.patients, return_index=True)
    if len(patients) < 3:
        raise DataError(
            f"{len(patients)} patients cannot be divided into training and test",
            todo="give this hospital more data, or leave it out",
            where=where,
        )
    labels = raw.strata[first]
    assigned = np.full(len(patients), "train", dtype="<U10")
    kept = rule.train + rule.validation
    rest, test = _cut(np.arange(len(patients)), labels, kept, rule.seed)
    assigned[test] = "test"
    if rule.validation:
        _, chosen = _cut(rest, labels, rule.train / kept, rule.seed)
        assigned[chosen] = "validation"
    return assigned[np.searchsorted(patients, raw.patients)]


def _cut(
    chosen: NDArray[np.int64], labels: NDArray[np.int64], keep: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two random pieces, neither empty if two can be; classes keep their shares if they can."""
    if len(chosen) < 2:
        return chosen, chosen[:0]
    of_chosen = labels[chosen]
    # Shares such as .7 and .1 add up to a hair less than .8: no patient may be lost to that.
    kept = min(max(int(len(chosen) * keep + 1e-9), 1), len(chosen) - 1)
    classes, counts = np.unique(of_chosen, return_counts=True)
    enough = len(classes) > 1 and counts.min() > 2
    room = min(kept, len(chosen) - kept) >= len(classes)
    first, second = train_test_split(
        chosen,
        train_size=kept,
        random_state=seed,
        stratify=of_chosen if enough and room else None,
    )
    return first, second


def _records(raw: RawRecords) -> Records:
    return Records(
        raw.inputs if isinstance(raw.inputs, Stored) else torch.from_numpy(raw.inputs),
        raw.labels if isinstance(raw.labels, Stored) else torch.from_numpy(raw.labels),
        torch.from_numpy(raw.patients),
        hashlib.sha256(framed(*map(_bytes, raw.names))).digest(),
        raw.cells,
    )
