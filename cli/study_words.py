"""A study in plain words: what it asks of a hospital, for whoever has to approve it."""

from __future__ import annotations

from collections.abc import Iterator

from fedward.study.image_data import ImageData
from fedward.study.origins import AtDate
from fedward.study.privacy import LocalPrivacy
from fedward.study.series_data import SeriesData
from fedward.study.signal_data import SignalData
from fedward.study.study import Study
from fedward.study.table_data import TableData
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
    yield f"  learns      to tell apart: {', '.join(study.task.classes)}"
    yield f"  reads       {_data(study)}"
    if measured := [feature.name for feature in study.data.measured]:
        yield f"  measures    mean and deviation of {_some(measured)} over all hospitals together"
    table = study.data.statistics if isinstance(study.data, TableData) else None
    if table is not None:
        yield (
            "  tells       counts, means and histograms of the columns and the label over all "
            f"hospitals together, no cell below {table.fewest} patients"
        )
    yield f"  trains      {_training(study)}"
    yield f"  with        {_hospitals(study)}"
    yield f"  sums        {_sums(study)}"
    yield f"  patients    {_privacy(study)}"
    yield "No record leaves the hospital. An approval can be withdrawn at any time."


def _data(study: Study) -> str:
    data, label = study.data, _some(list(study.data.label_columns))
    match data:
        case TableData():
            return f"the columns {_some(list(data.features))}; the label {label}{_index(data)}"
        case SeriesData():
            days = data.bins * data.hours / 24
            return (
                f"{_some(list(data.features))} over {days:g} days in {data.bins} bins; "
                f"the label {label}{_index(data)}"
            )
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


def _index(data: TableData | SeriesData) -> str:
    index = data.index
    if index is None:
        return ""
    if isinstance(index, AtDate):
        return f"; in record systems features before {index.at}, labels from then on"
    return f"; in record systems features before each patient's {index.which} event, labels after"


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
