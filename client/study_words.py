"""A study in plain words: what it asks of a hospital, for whoever has to approve it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fedward.client.hospital import Limits
from fedward.study.aggregation import FedBN, FedPer
from fedward.study.errors import printable
from fedward.study.evaluation import Evaluation
from fedward.study.image_data import ImageData
from fedward.study.origins import AtDate
from fedward.study.parts import GivenParts
from fedward.study.privacy import LocalPrivacy
from fedward.study.series_data import SeriesData
from fedward.study.signal_data import SignalData
from fedward.study.study import Study
from fedward.study.table_data import TableData
from fedward.study.task import (
    ClassTask,
    GenerationTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
)
from fedward.study.token_data import SequenceData, TextData

PROMISE = "No record leaves the hospital. An approval can be withdrawn at any time."


class Asked(NamedTuple):
    """One thing that a study asks.

    Attributes:
        about: What it is about, a word or two.
        words: What it asks.
    """

    about: str
    words: str


def words_of(study: Study, digest: str, limits: Limits) -> Iterator[str]:
    """One line for each thing that it asks, for a terminal.

    Args:
        study: As the coordinator signed it.
        digest: Of it.
        limits: What the hospital allows at most.
    """
    title = f" ({study.study.title})" if study.study.title else ""
    yield printable(f"Study {study.study.name!r}{title}")
    for about, words in asked_by(study, digest, limits):
        yield f"  {about:<12}{words}"
    yield PROMISE


def asked_by(study: Study, digest: str, limits: Limits) -> Iterator[Asked]:
    """Each thing that it asks; as for `words_of`."""
    for about, words in _asked(study, digest, limits):
        yield Asked(about, printable(words))


def _asked(study: Study, digest: str, limits: Limits) -> Iterator[tuple[str, str]]:
    yield "digest", digest
    if study.study.intended_use:
        yield "is for", study.study.intended_use
    if study.study.limits:
        yield "not for", " ".join(study.study.limits)
    yield "learns", _learnt(study)
    yield "reads", _data(study)
    yield "divides", _parts(study)
    if measured := [feature.name for feature in study.data.measured]:
        names = ", ".join(measured)
        yield "measures", f"mean and deviation of {names} over all hospitals together"
    table = study.data.statistics
    if table is not None:
        what = "the columns" if study.data.kind == "table" else "a few numbers of each record"
        yield (
            "tells",
            f"counts, means and histograms of {what} and the label over all "
            f"hospitals together, no cell below {table.fewest} patients",
        )
    yield "model", _model(study)
    yield "trains", _training(study)
    yield "with", _hospitals(study)
    yield "updates", _updates(study)
    if study.personal:
        yield "keeps", _kept(study)
    yield "sums", _sums(study)
    yield "metrics", _metrics(study)
    if study.evaluation is not None:
        yield "evaluates", _evaluation(study.evaluation, secure=study.aggregation.secure)
    yield "patients", _privacy(study)
    if study.evaluation_noise is not None:
        yield "judges", f"with noise of its own, multiplier {study.evaluation_noise:g}, charged"
    yield "runs", _runs(study, limits)


def _learnt(study: Study) -> str:
    task = study.task
    match task:
        case ClassTask():
            return f"to tell apart: {', '.join(task.classes)}{_weights(task)}"
        case MultilabelTask():
            return f"to find, none, one or several: {', '.join(task.classes)}{_weights(task)}"
        case RegressionTask():
            return f"a number between {task.bounds[0]:g} and {task.bounds[1]:g}"
        case SurvivalTask():
            return f"the time until an event, up to {task.intervals[-1]:g}"
        case SegmentationTask():
            return f"to mark in images: {', '.join(task.classes)}{_weights(task)}"
        case ReconstructionTask():
            return "to say a record in few numbers, and so how unusual it is"
        case GenerationTask():
            kinds = f" of {', '.join(task.classes)}" if task.classes else ""
            return f"to make images{kinds} that look like the records"


def _weights(task: ClassTask | MultilabelTask | SegmentationTask) -> str:
    if task.class_weights is None:
        return ""
    return f"; weights in training {', '.join(f'{weight:g}' for weight in task.class_weights)}"


def _data(study: Study) -> str:
    data, label = study.data, ", ".join(study.data.label_columns)
    match data:
        case TableData():
            lacking = "refused" if data.missing == "refuse" else "left out"
            return (
                f"the columns {', '.join(data.features)}; the label {label}{_index(data)}; "
                f"a row that lacks a value is {lacking}"
            )
        case SeriesData():
            days = data.bins * data.hours / 24
            return (
                f"{', '.join(data.features)} over {days:g} days in {data.bins} bins; "
                f"the label {label}{_index(data)}"
            )
        case ImageData():
            channels, *size = data.shape
            pixels = " x ".join(map(str, size))
            varied = "" if data.augmentation is None else "; varied at random in training"
            return f"images of {pixels} pixels and {channels} channels, and their labels{varied}"
        case SignalData():
            return (
                f"{data.length / data.rate:g} s of the channels {', '.join(data.channels)}; "
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


def _parts(study: Study) -> str:
    parts = study.data.parts
    if isinstance(parts, GivenParts):
        return "patients into training, validation and test as the hospital's files say"
    how = "by a hash of their names" if parts.by == "hash" else "at random"
    shares = f"{parts.train:.0%} training, {parts.validation:.0%} validation, {parts.test:.0%} test"
    return f"patients {how}: {shares}"


def _model(study: Study) -> str:
    settings = ", ".join(f"{key} = {_plain(value)}" for key, value in study.model.settings.items())
    from fedward.models.registry import package_of

    package = package_of(study.model.name)
    origin = "" if package is None else f", of the package {package} that is installed here"
    return f"{study.model.name!r}{f' with {settings}' if settings else ''}{origin}"


def _plain(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _training(study: Study) -> str:
    training = study.training
    work = (
        f"{training.local_steps} steps"
        if training.local_steps is not None
        else f"{training.local_epochs} passes over the training records"
    )
    rate = f"learning rate {training.learning_rate:g} ({training.schedule})"
    further = [
        f"{key} {value:g}"
        for key, value in (
            ("momentum", training.momentum),
            ("weight decay", training.weight_decay),
        )
        if value
    ]
    if not isinstance(study.privacy, LocalPrivacy):
        further.append(f"{training.batch_size} records a step")
    if (early := training.early_stopping) is not None:
        further.append(
            f"ended by {early.patience} rounds without a better {early.metric} on validation, "
            f"keeping the {early.keep} model"
        )
    return f"{training.rounds} rounds, {work} in each: " + ", ".join(
        [training.optimizer, rate, *further]
    )


def _hospitals(study: Study) -> str:
    wanted = study.participation
    return (
        f"{wanted.hospitals} hospitals, {wanted.asked} of them in a round, which counts with "
        f"{wanted.fewest} answers within {wanted.deadline_seconds:g} s"
    )


def _updates(study: Study) -> str:
    terms = study.aggregation
    return (
        f"shortened to an L2 norm of {terms.clip:g}, weighted with at most "
        f"{terms.largest_weight}, put together by {terms.strategy!r}"
    )


def _kept(study: Study) -> str:
    """What of the model never leaves."""
    if study.training.fine_tuning is not None:
        steps = study.training.fine_tuning.steps
        what = f"the final model, trained {steps} steps further on the records here"
    elif isinstance(study.aggregation, FedBN):
        what = "its own normalisation layers"
    elif isinstance(study.aggregation, FedPer):
        what = f"its own last {study.aggregation.head_layers} layers"
    else:
        what = "a personal model beside the common one"
    return f"{what}: at this hospital alone; its metrics count in the sums"


def _sums(study: Study) -> str:
    terms = study.aggregation
    if not terms.secure:
        return "IN CLEAR: whoever runs the aggregator can read this hospital's update"
    two = "; TWO hospitals are enough, and each can subtract itself" if terms.two_hospitals else ""
    return (
        "secure: the aggregator can add updates up, and cannot read this hospital's, while at most "
        f"{terms.colluding} hospitals side with it (colluding); every sum holds at least "
        f"{terms.min_honest} honest hospitals (min_honest){two}"
    )


def _metrics(study: Study) -> str:
    parts = ["validation", "test"] if study.data.validated else ["test"]
    if not isinstance(study.privacy, LocalPrivacy):
        parts.insert(0, "training")
    elif not study.aggregation.secure:
        return "none: a hospital's own would be read in the clear"
    whose = "their sum over hospitals is read" if study.aggregation.secure else "read IN CLEAR"
    return f"counts and scores of {', '.join(parts)} records, without noise: {whose}"


def _evaluation(table: Evaluation, *, secure: bool) -> str:
    """What else is told of the final model."""
    groups = [
        f"{name} (column {group.column}: {'; '.join(group.names)})" for name, group in table.ordered
    ]
    plainly = "" if secure else ", IN CLEAR and of each hospital"
    cells = (
        f" by {', '.join(groups)}, no cell below {table.fewest} patients shown (the aggregator can "
        f"read smaller ones too{plainly})"
    ) * bool(groups)
    again = (
        f"; the same counts and scores {table.replicates} times with patients drawn anew, for "
        "intervals"
    ) * bool(table.replicates)
    return f"the final model on the test records{cells}{again}; without noise"


def _privacy(study: Study) -> str:
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return "NO differential privacy: the model may remember patients"
    cost = (
        f"epsilon {privacy.epsilon:g}"
        if privacy.epsilon is not None
        else f"noise multiplier {privacy.noise_multiplier:g}"
    )
    drawn = (
        f"each with probability {privacy.sampling_rate:g} in a step"
        if privacy.sampling_rate is not None
        else f"{privacy.patients_per_step} in a step on average"
    )
    return (
        f"differential privacy for each patient: {cost} at delta {privacy.delta:g} for one whole "
        f"run, clipped to {privacy.clipping_norm:g}, {drawn}, "
        f"at most {privacy.records_per_patient} records of each"
    )


def _runs(study: Study, limits: Limits) -> str:
    """What an approval allows: it names the study, and the aggregator names the runs."""
    any_number = "one approval allows ANY NUMBER of runs of this study"
    if not isinstance(study.privacy, LocalPrivacy):
        return f"{any_number}, and no budget counts them, until it is withdrawn"
    if limits.epsilon is None:
        return (
            f"{any_number}, each at that cost, until it is withdrawn: hospital.toml sets no limit "
            "([limits] epsilon)"
        )
    return (
        f"{any_number}, each at that cost, until this hospital's budget is spent: epsilon "
        f"{limits.epsilon:g} at delta {limits.delta:g} over all studies on these data"
    )
