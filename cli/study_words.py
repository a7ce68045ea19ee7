"""A study in plain words: what it asks of a hospital, for whoever has to approve it."""

from __future__ import annotations

from collections.abc import Iterator

from fedward.study.image_data import ImageData
from fedward.study.privacy import LocalPrivacy
from fedward.study.signal_data import SignalData
from fedward.study.study import Study
from fedward.study.table_data import TableData
from fedward.study.task import (
    ClassTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
)
from fedward.study.token_data import SequenceData, TextData

_SHOWN = 20  # columns that are named one by one


def words_of(study: Study, digest: str) -> Iterator[str]:
    """One line for each thing that it asks.

    Args:
        study: As the coordinator signed it.
        digest: Of it.
    """
    yield from map(_printable, _lines(study, digest))


def _printable(line: str) -> str:
    """Without what moves a terminal's cursor or colours it: a line stays the line that it is."""
    return "".join(c if c.isprintable() else "\ufffd" for c in line)


def _lines(study: Study, digest: str) -> Iterator[str]:
    title = f" ({study.study.title})" if study.study.title else ""
    yield f"Study {study.study.name!r}{title}"
    yield f"  digest      {digest}"
    yield f"  learns      {_learnt(study)}"
    yield f"  reads       {_data(study)}"
    if measured := [feature.name for feature in study.data.measured]:
        yield f"  measures    mean and deviation of {_some(measured)} over all hospitals together"
    yield f"  trains      {_training(study)}"
    yield f"  with        {_hospitals(study)}"
    yield f"  sums        {_sums(study)}"
    yield f"  patients    {_privacy(study)}"
    yield "No record leaves the hospital. An approval can be withdrawn at any time."


def _learnt(study: Study) -> str:
    task = study.task
    match task:
        case ClassTask():
            return f"to tell apart: {', '.join(task.classes)}"
        case MultilabelTask():
            return f"to find, none, one or several: {', '.join(task.classes)}"
        case RegressionTask():
            return f"a number between {task.bounds[0]:g} and {task.bounds[1]:g}"
        case SurvivalTask():
            return f"the time until an event, up to {task.intervals[-1]:g}"
        case SegmentationTask():
            return f"to mark in images: {', '.join(task.classes)}"
        case ReconstructionTask():
            return "to say a record in few numbers, and so how unusual it is"


def _data(study: Study) -> str:
    data, label = study.data, _some(list(study.data.label_columns))
    match data:
        case TableData():
            return f"the columns {_some(list(data.features))}; the label {label}"
        case ImageData():
            channels, *size = data.shape
            pixels = " x ".join(map(str, size))
            return f"images of {pixels} pixels and {channels} channels, and their labels"
        case SignalData():
            return (
                f"{data.length / data.rate:g} s of the channels {_some(list(data.channels))}; "
                f"the label {label}"
            )
        case TextData():
            return f"the texts in {data.text}, {data.length} words at most; the label {label}"
        case SequenceData():
            return f"sequences of at most {data.length} letters; the label {label}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _training(study: Study) -> str:
    training = study.training
    work = (
        f"{training.local_steps} steps"
        if training.local_steps is not None
        else f"{training.local_epochs} passes over the training records"
    )
    return f"a model {study.model.name!r} in {training.rounds} rounds, {work} in each"


def _hospitals(study: Study) -> str:
    wanted = study.participation
    least = wanted.min_hospitals or wanted.invited or wanted.hospitals
    return f"{wanted.hospitals} hospitals; a round counts with {least} answers"


def _sums(study: Study) -> str:
    if not study.aggregation.secure:
        return "IN CLEAR: whoever runs the aggregator can read this hospital's update"
    return "secure: the aggregator can add updates up, and cannot read this hospital's"


def _privacy(study: Study) -> str:
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return "NO differential privacy: the model may remember patients"
    cost = (
        f"epsilon {privacy.epsilon:g}"
        if privacy.epsilon is not None
        else f"noise multiplier {privacy.noise_multiplier:g}"
    )
    return f"differential privacy for each patient: {cost} at delta {privacy.delta:g}, whole run"
