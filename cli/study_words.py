"""A study in plain words: what it asks of a hospital, for whoever has to approve it."""

from __future__ import annotations

from collections.abc import Iterator

from fedward.study.data import TableData
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

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
    yield f"  trains      {_training(study)}"
    yield f"  with        {_hospitals(study)}"
    yield f"  sums        {_sums(study)}"
    yield f"  patients    {_privacy(study)}"
    if study.evaluation_noise is not None:
        yield f"  judges      with noise of its own, multiplier {study.evaluation_noise:g}, charged"
    yield "No record leaves the hospital. An approval can be withdrawn at any time."


def _data(study: Study) -> str:
    data = study.data
    if not isinstance(data, TableData):
        channels, height, width = data.shape
        return f"images of {height} x {width} pixels and {channels} channels, and their labels"
    return f"the columns {_some(list(data.features))}; the label {data.label}"


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
