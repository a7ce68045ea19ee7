"""What a hospital's records are like, in lines for its own staff: they have true numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.parts import PARTS
from fedward.client.data.records import Fact, RawRecords
from fedward.client.data.repeats import across_parts, of_two_patients
from fedward.client.data.signal_facts import signal_facts
from fedward.client.data.stored import Stored, in_pieces
from fedward.study.data import Data
from fedward.study.image_data import ImageData
from fedward.study.signal_data import SignalData
from fedward.study.study import Study
from fedward.study.task import (
    ClassTask,
    GenerationTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SurvivalTask,
    Task,
)
from fedward.study.token_data import UNKNOWN, SequenceData, TextData

_STEPS = (1, 2, 5, 10, 20, 50, 100)  # upper ends of the histogram's bars
_BAR = 30  # characters of the longest


def facts_of(
    raw: RawRecords, study: Study, assigned: NDArray[np.str_], *, named_by: str | None
) -> list[Fact]:
    """Patients, inputs and the three parts.

    Args:
        raw: At least one record.
        study: Which asks for them.
        assigned: Part of each record.
        named_by: What names the patient; None where nobody says.
    """
    found = [*raw.facts, *patients_of(raw, named_by), *_inputs(raw, study.data)]
    for part in PARTS:
        here = raw.chosen(assigned == part)
        who = f"{len(here)} records of {len(np.unique(here.patients))} patients"
        found.append(Fact(part, f"{who}{_labels(here, study.task)}"))
    shared = of_two_patients(raw) if isinstance(study.data, ImageData) else None
    return [*found, *filter(None, (across_parts(raw, assigned), shared))]


def patients_of(raw: RawRecords, named_by: str | None) -> list[Fact]:
    """How many patients there are, and how many have how many records."""
    if named_by is None:
        many = len(np.unique(raw.patients))
        return [Fact("patients", f"{many}, as nobody says whose the records are")]
    each = np.unique(raw.patients, return_counts=True)[1]
    most = int(each.max())
    if most == 1:
        return [Fact("patients", f"{len(each)}; each has one record")]
    ends = [end for end in _STEPS if end < most] + [most]
    starts = [1, *(end + 1 for end in ends)]
    counts = [
        int(((each >= start) & (each <= end)).sum())
        for start, end in zip(starts, ends, strict=False)
    ]
    found = [Fact("patients", f"{len(each)}; the one with most records has {most}")]
    for start, end, count in zip(starts, ends, counts, strict=False):
        span = str(start) if start == end else f"{start} to {end}"
        bar = "#" * -(-count * _BAR // max(counts))
        found.append(Fact("", f"{span:>10} records: {count:6} patients {bar}".rstrip()))
    return found


def _labels(raw: RawRecords, task: Task) -> str:
    """The rest of a part's line: what its labels are."""
    labels, count = raw.labels, max(len(raw), 1)
    if isinstance(labels, Stored):  # masks
        return ""
    match task:
        case ClassTask() | GenerationTask() if task.classes:
            counts = np.bincount(labels.astype(np.int64), minlength=len(task.classes))
        case MultilabelTask():
            counts = labels.sum(axis=0).astype(np.int64)
        case SurvivalTask():
            seen = int(labels[:, 1].sum())
            middle = f"; {np.median(labels[:, 0]):g} is the middle time" if len(raw) else ""
            return f": {seen} events ({seen / count:.0%}){middle}"
        case RegressionTask():
            if not len(raw):
                return ""
            edge = int(np.isin(labels, np.array(task.bounds, np.float32)).sum())
            return (
                f": labels {labels.min():g} to {labels.max():g}, {np.median(labels):g} in the "
                f"middle, {edge} at the study's bounds or beyond"
            )
        case ReconstructionTask():
            return ""
        case _:
            return ""
    shares = [
        f"{name} {number} ({number / count:.0%})"
        for name, number in zip(task.classes, counts, strict=True)
    ]
    return f": {', '.join(shares)}"


def _inputs(raw: RawRecords, data: Data) -> list[Fact]:
    match data:
        case ImageData():
            return [_brightness(raw, data)]
        case SignalData():
            return signal_facts(raw, data)
        case TextData() | SequenceData():
            return _tokens(raw)
        case _:
            return []


def _brightness(raw: RawRecords, data: ImageData) -> Fact:
    edges = [(piece.min(), piece.max()) for piece in in_pieces(raw.inputs)]
    lowest, highest = min(low for low, _ in edges), max(high for _, high in edges)
    low, high = (float(edge) * data.scale + data.center for edge in (lowest, highest))
    odd = "" if low >= -0.01 and 0.5 < high <= 1.01 else "; the study expects 0 to 1"
    return Fact("look at" if odd else "pixels", f"pixels from {low:.3g} to {high:.3g}{odd}")


def _tokens(raw: RawRecords) -> list[Fact]:
    """Lengths after the cut, and how much of the records the study's vocabulary does not know."""
    lengths = (raw.whole != 0).sum(axis=1)
    unknown = (raw.whole == UNKNOWN).sum(axis=1)
    share = float(unknown.sum() / max(int(lengths.sum()), 1))
    most = int(np.argmax(unknown / np.maximum(lengths, 1)))
    row, worst = int(raw.rows[most]) + 1, float(unknown[most] / max(int(lengths[most]), 1))
    return [
        Fact("lengths", f"{np.median(lengths):.0f} tokens in the middle, {lengths.max()} at most"),
        Fact("unknown", f"{share:.2%} of all tokens; most in record {row}: {worst:.0%}"),
    ]
