"""What a run's study and its facts are called on the page and on the model's card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fedward.clinic.told import Metrics, Told
from fedward.models.tasks.figures import NAMES
from fedward.privacy.schedule import epsilon_after
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study
from fedward.study.threshold import shares_needed

METRICS = {
    **NAMES,
    "records": "records",
    "average_precision": "average precision",
    "threshold": "threshold",
    "sensitivity": "sensitivity (recall)",
    "specificity": "specificity",
    "precision": "precision",
    "recall": "recall",
    "brier": "Brier score",
    "calibration_error": "expected calibration error",
    "rmse": "RMSE",
    "concordance_inside": "c-index inside hospitals",
    "events": "events",
    "error_median": "median error",
    "error_95": "95th percentile of errors",
    "iou": "intersection over union",
}
"""Names of metrics for people."""

NOT_A_DEVICE = (
    "It is no medical device: whoever uses it for care has to show first that it is fit for that."
)
WHOSE_RECORDS = (
    "Its figures are of test records of the hospitals that trained it; of other hospitals, "
    "scanners and years they say nothing."
)

Facts = list[tuple[str, str]]


class Figure(NamedTuple):
    """A number of a table: as it is, and as it is read."""

    value: float | None
    text: str


class Row(NamedTuple):
    """A line of a table of figures."""

    name: str
    figures: list[Figure]


class Page(NamedTuple):
    """What report and card say alike.

    Attributes:
        about: What the study was.
        limits: What its model is not for.
        trained: How it was trained.
        columns: Parts that judged it.
        figures: Its metrics on them.
        protection: What protects the patients.
        spent: The most that a hospital's ledger says was spent; None where nobody says.
        planned: Epsilon of a hospital that was in every round, where no ledger is there to ask.
    """

    about: Facts
    limits: list[str]
    trained: Facts
    columns: list[str]
    figures: list[Row]
    protection: Facts
    spent: float | None
    planned: float | None


def said_of(told: Told) -> Page:
    """What is said of a run."""
    validation = told.validation
    planned = None if told.result else epsilon_after(told.study, told.study.training.rounds)
    return Page(
        about=_settings(told),
        limits=list(_limits(told)),
        trained=_trained(told),
        columns=["test", *([] if validation is None else ["validation"])],
        figures=list(_figures(told, validation)),
        protection=_protection(told),
        spent=_spent(told),
        planned=planned,
    )


def figure(value: float | None) -> Figure:
    """A number, and how it is read."""
    return Figure(value, number(value))


def number(value: float | None) -> str:
    """A metric with three decimals, a count as it is."""
    if value is None:
        return "not known"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _settings(told: Told) -> Facts:
    """What the study was."""
    study = told.study
    found: Facts = [
        ("name", study.study.name),
        ("task", _task(study)),
        ("data", f"{study.data.kind}, input of shape {_shape(study.data.input_shape)}"),
        ("label", ", ".join(study.data.label_columns) or "none"),
        ("model", study.model.name),
        ("hospitals", str(study.participation.hospitals)),
        ("study's digest", study.digest()),
        ("model's SHA-256", told.model_digest),
        ("seed", "not known" if told.seed is None else str(told.seed)),
    ]
    if told.run is not None:
        found += [("run", told.run.name), ("submitted", told.run.created)]
        found.append(("roster, version", str(told.run.roster)))
    if told.stage is not None:
        found.append(("in the registry", told.stage.sentence()))
    return found


def _trained(told: Told) -> Facts:
    """How it was trained."""
    training, stopped = told.study.training, told.federation.early_stopping
    work = (
        f"{training.local_steps} steps"
        if training.local_steps is not None
        else f"{training.local_epochs} passes"
    )
    private = isinstance(told.study.privacy, LocalPrivacy)
    found: Facts = [
        ("rounds", str(training.rounds)),
        ("at a hospital in a round", work),
        *([] if private else [("records in a step", str(training.batch_size))]),
        ("optimizer", training.optimizer),
        ("learning rate", f"{training.learning_rate:g}, {training.schedule}"),
        ("seconds", f"{told.federation.seconds:.1f}"),
    ]
    if stopped is not None:
        said = f"the model of round {stopped.round}, of {stopped.trained} that were trained"
        found.append(("ended early", said))
    return found


def sums_of(study: Study) -> Facts:
    """How the hospitals' updates were added up."""
    terms, asked = study.aggregation, study.participation.asked
    found: Facts = [
        ("strategy", terms.strategy),
        ("secure sums", "yes" if terms.secure else "no"),
        ("weight of a hospital", "its records" if terms.weighting == "examples" else "alike"),
        ("largest norm of an update", f"{terms.clip:g}"),
        ("fewest answers", str(study.participation.fewest)),
    ]
    if terms.secure:
        needed = shares_needed(
            hospitals=asked, colluding=terms.colluding, min_honest=terms.min_honest
        )
        found += [
            ("largest weight", str(terms.largest_weight)),
            ("hospitals that may collude", str(terms.colluding)),
            ("fewest honest ones in a sum", str(terms.min_honest)),
            ("shares that open a sum", str(needed)),
        ]
    return found


def _protection(told: Told) -> Facts:
    """What protects the patients."""
    privacy, noise = told.study.privacy, told.federation.evaluation_noise
    if not isinstance(privacy, LocalPrivacy):
        return [("differential privacy", "none")]
    rate = (
        f"{privacy.sampling_rate:g} of the patients"
        if privacy.sampling_rate is not None
        else f"{privacy.patients_per_step} patients on average"
    )
    found: Facts = [
        ("unit", "everything of one patient at one hospital"),
        ("delta", f"{privacy.delta:g}"),
        ("clipping", f"{privacy.clipping}, norm {privacy.clipping_norm:g}"),
        ("in a step", rate),
        ("accountant", privacy.accountant),
    ]
    if privacy.epsilon is not None:
        found.insert(1, ("budget, epsilon", f"{privacy.epsilon:g}"))
    else:
        found.insert(1, ("noise multiplier", f"{privacy.noise_multiplier:g}"))
    if noise is not None:
        deviation = f"a standard deviation of {noise.deviation:.3g} patients"
        found.append(("noise of evaluation", f"{deviation} in each count, of each hospital"))
    return found


def _spent(told: Told) -> float | None:
    """The most that a hospital's ledger says was spent; None where nobody says."""
    if told.result is None:
        return None
    known = (entry.epsilon for entry in told.result.privacy.values())
    return max((epsilon for epsilon in known if epsilon is not None), default=None)


def _limits(told: Told) -> Iterator[str]:
    """What the study says that its model is not for, and what holds of every such model."""
    yield from told.study.study.limits
    yield WHOSE_RECORDS
    if told.federation.evaluation_noise is not None:
        yield "All figures have noise, which protects the patients of the test part."
    if told.result is not None:
        yield "The run was a simulation: one data set was divided among pretended hospitals."
        if isinstance(told.study.privacy, LocalPrivacy):
            yield "The noise of a simulation is seeded: it protects nobody."
    yield NOT_A_DEVICE


def _figures(told: Told, validation: Metrics | None) -> Iterator[Row]:
    """Each metric of the federated model, on the parts that judged it."""
    for name, value in told.federation.test.items():
        if not isinstance(value, dict):
            parts = [value, *([] if validation is None else [validation.get(name)])]
            yield Row(METRICS.get(name, name), [figure(part) for part in parts])


def _task(study: Study) -> str:
    classes = study.task.classes
    return f"{study.task.kind}{': ' if classes else ''}{', '.join(classes)}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
