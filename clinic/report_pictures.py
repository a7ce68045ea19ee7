"""Which pictures a run's report has, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fedward.clinic import curves, pictures
from fedward.clinic.curves import Curve, Numbers
from fedward.clinic.pictures import Line, Picture, uri_of
from fedward.clinic.told import Told
from fedward.models import scores
from fedward.models.tasks.any_task import Sums
from fedward.models.tasks.classification import Classification
from fedward.models.tasks.figures import NAMES, SHARES, shown
from fedward.models.tasks.multilabel import Multilabel
from fedward.models.tasks.survival import Survival
from fedward.study.errors import DataError

_MOST_LINES = 12
_MOST_MODELS = 30
_MOST_CLASSES = 20
_DECILES = 10  # groups of probability
_GROUPS = ("low risk", "middle", "high risk")


class Drawn(NamedTuple):
    """Pictures of a run.

    Attributes:
        pictures: In the order of the page.
        missing: A sentence for each picture that could not be drawn, or not of everything.
    """

    pictures: list[Picture]
    missing: list[str]


def pictures_of(told: Told) -> Drawn:
    """Every picture that the run's folder has the numbers for."""
    found = [*_learning(told), *_compared(told)]
    missing: list[str] = []
    if told.sums is None:
        missing.append(
            "This run kept no judged.safetensors (it is older than that file): ROC, "
            "precision-recall, confusion, calibration and survival cannot be drawn."
        )
        return Drawn(found, missing)
    sums = told.sums.get("federated.test")
    if sums is None or not np.any(sums):
        missing.append("No test record judged the model: there is nothing more to draw.")
        return Drawn(found, missing)
    match told.task:
        case Classification() | Multilabel():
            found += _of_scores(told, told.task, sums, missing)
        case Survival():
            found += _of_survival(told.task, sums)
        case _:
            missing.append(
                f"A {told.study.task.kind} task has no ROC, confusion table or calibration."
            )
    return Drawn(found, missing)


def roc_lines(told: Told, task: Classification | Multilabel) -> list[Line]:
    """The ROC curve of each judged class; of a single one, the models for comparison too."""
    return [
        Line(name, curve, faint)
        for name, pair, faint in _scored(told, task)
        if (curve := curves.roc(*pair)) is not None
    ]


def precision_recall_lines(told: Told, task: Classification | Multilabel) -> list[Line]:
    """The same of precision and recall."""
    return [
        Line(name, curve, faint)
        for name, pair, faint in _scored(told, task)
        if (curve := curves.precision_recall(*pair)) is not None
    ]


def classes_of(told: Told) -> tuple[str, ...]:
    """Names of the classes that have scores of their own."""
    classes = told.study.task.classes
    return classes[1:] if told.study.task.kind == "binary" else classes


def _scored(
    told: Told, task: Classification | Multilabel
) -> Iterator[tuple[str, tuple[Sums, Sums], bool]]:
    """What is drawn: its name, its scores, and whether it is one of many."""
    sums, names = told.sums or {}, classes_of(told)
    pairs = task.scored(sums["federated.test"])
    if len(names) > 1:
        for name, pair in list(zip(names, pairs, strict=True))[:_MOST_LINES]:
            yield name, pair, False
        return
    yield "federated", pairs[0], False
    if "pooled.test" in sums:
        yield "pooled", task.scored(sums["pooled.test"])[0], False
    for name in [name for name in sums if name.startswith("local.")][:_MOST_MODELS]:
        yield "one hospital only", task.scored(sums[name])[0], True


def _learning(told: Told) -> Iterator[Picture]:
    names = [name for name in shown(told.federation.test) if name in (told.rounds or [{}])[0]]
    lines: dict[str, Line] = {}
    for name in names:
        points = _points(told, name)
        if points:
            x, y = np.array(points).T
            lines[name] = Line(NAMES[name], Curve(x, y))
    if not lines:
        return
    shares = [line for name, line in lines.items() if name in SHARES]
    others = [line for name, line in lines.items() if name not in SHARES]
    figure = pictures.learning_curves(shares, others)
    part = told.rounds[0].get("part", "")
    ends = "; ".join(
        f"{line.name} {line.curve.y[0]:.3f} at first, {line.curve.y[-1]:.3f} in the end"
        for line in lines.values()
    )
    yield Picture(
        "Learning curves",
        uri_of(figure),
        f"Figures on the {part} part after each round: {ends}.",
        f"The global model on the {part} part of all hospitals, after 0, 1, ... rounds.",
    )


def _points(told: Told, name: str) -> list[tuple[float, float]]:
    """A metric after each round that has it."""
    try:
        return [(float(row["round"]), float(row[name])) for row in told.rounds if row[name]]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"has rows that are no figures of rounds ({type(error).__name__})",
            todo="put back the file of this run",
            where=str(told.folder / "rounds.csv"),
        ) from None


def _compared(told: Told) -> Iterator[Picture]:
    name = shown(told.federation.test)[0]
    known = {m: found.get(name) for m, found in told.models.items()}
    values = {m: float(value) for m, value in known.items() if value is not None}
    if len(values) < 2:
        return
    some = dict(list(values.items())[:_MOST_MODELS])
    figure = pictures.compared(NAMES[name], some, share=name in SHARES)
    words = ", ".join(f"{model} {value:.3f}" for model, value in some.items())
    rest = len(values) - len(some)
    yield Picture(
        "Federated beside pooled and local-only",
        uri_of(figure),
        f"{NAMES[name]} on the test part: {words}.",
        f"{NAMES[name]} on the same records: the test parts of all hospitals."
        + (f" {rest} more models are in the table only." if rest else ""),
    )


def _of_scores(
    told: Told, task: Classification | Multilabel, sums: Sums, missing: list[str]
) -> Iterator[Picture]:
    names, threshold = classes_of(told), told.facts.threshold
    if len(names) > _MOST_LINES:
        missing.append(f"Curves are of the first {_MOST_LINES} of {len(names)} classes.")
    rings = rings_of(told, task, sums)
    if rings.silent:
        missing.append(
            f"At the threshold {threshold:.3f} nobody is called {', '.join(rings.silent)}: "
            "precision has no operating point there."
        )
    rocs, recalls = roc_lines(told, task), precision_recall_lines(told, task)
    if len(rocs) < min(len(list(_scored(told, task))), 1):
        missing.append("The test part has records of one class only: there is no ROC.")
    said = f"threshold {threshold:.3f}"
    ring = "The ring is" if len(names) == 1 else "A ring for each is"
    at = f" {ring} the threshold, {threshold:.3f}."
    whole = "" if len(names) == 1 else " Each class against the rest."
    if rocs:
        areas = _areas(told, "auc", "AUC")
        yield Picture(
            "ROC",
            uri_of(pictures.roc(rocs, [*rings.roc.values()], said)),
            f"ROC curves on the test part. {areas}",
            "Test part of all hospitals; the dotted diagonal is guessing."
            f"{at if rings.roc else ''}{whole}",
        )
    if recalls:
        share = _prevalence(task, sums) if len(names) == 1 else None
        figure = pictures.precision_recall(recalls, [*rings.recall.values()], said, share)
        yield Picture(
            "Precision and recall",
            uri_of(figure),
            f"Precision over recall on the test part. {_areas(told, 'average_precision', 'AP')}",
            "Test part of all hospitals; the dotted line is guessing."
            f"{at if rings.recall else ''}{whole}",
        )
    yield from _tables(told, task, sums, missing)
    yield from _calibration(told, task, sums, missing)


def _tables(
    told: Told, task: Classification | Multilabel, sums: Sums, missing: list[str]
) -> Iterator[Picture]:
    names = told.study.task.classes
    if isinstance(task, Multilabel):
        return  # a table of numbers, see the page
    if len(names) > _MOST_CLASSES:
        missing.append(f"A confusion table of {len(names)} classes is too large to be drawn.")
        return
    counts = task.table(sums, told.facts.threshold)
    rows = "; ".join(
        f"{name}: " + ", ".join(f"{n:.0f} called {c}" for n, c in zip(row, names, strict=True))
        for name, row in zip(names, counts, strict=True)
    )
    binary = told.study.task.kind == "binary"
    called = f"the threshold {told.facts.threshold:.3f}" if binary else "the likeliest class"
    what = "Patients (with noise)" if told.federation.evaluation_noise else "Records"
    yield Picture(
        "Confusion table",
        uri_of(pictures.confusion(counts, names)),
        f"Confusion table. {rows}.",
        f"{what} of the test part at {called}. Darker is a larger share of the row.",
    )


def _calibration(
    told: Told, task: Classification | Multilabel, sums: Sums, missing: list[str]
) -> Iterator[Picture]:
    pairs = task.scored(sums)
    if len(pairs[0][0]) != scores.BINS:
        missing.append("Scores with noise are in 16 bins, too few to draw calibration.")
        return
    lines = [
        Line(name if len(pairs) > 1 else "federated", curves.reliability(*pair, _DECILES)[0])
        for name, pair in list(zip(classes_of(told), pairs, strict=True))[:_MOST_LINES]
    ]
    records = _counted(*pairs[0])
    error = told.federation.test.get("calibration_error")
    yield Picture(
        "Calibration",
        uri_of(pictures.reliability(lines)),
        "Share that has the finding, over the mean probability given"
        + (f"; expected calibration error {error:.3f}." if error is not None else "."),
        "Ten groups of probability on the test part; on the diagonal a probability means what it "
        f"says. Records by the probability given, {lines[0].name}: {records}.",
    )


def _counted(negatives: Sums, positives: Sums) -> str:
    """Records of each group of probability that has any, and which group it is."""
    groups = curves.reliability(negatives, positives, _DECILES)
    each = zip(groups[0].x, groups[1], strict=True)
    named = ((min(int(mean * _DECILES), _DECILES - 1) / _DECILES, n) for mean, n in each)
    return "; ".join(f"{low:.1f} to {low + 1 / _DECILES:.1f}: {n:.0f}" for low, n in named)


def _of_survival(task: Survival, sums: Sums) -> Iterator[Picture]:
    groups = curves.survival_by_risk(task.counted(sums), task.ends, _GROUPS)
    words = "; ".join(f"{g.name} {g.survival.y[-1]:.3f} at {g.survival.x[-1]:g}" for g in groups)
    yield Picture(
        "Survival by risk",
        uri_of(pictures.survival(groups)),
        f"Share without the event in thirds of the model's risk: {words}.",
        "What was seen in the test part, in thirds by the model's risk (records in brackets): "
        "life-table estimates. The further apart, the better the model tells them.",
    )


class Rings(NamedTuple):
    """Where the threshold is on the curves, by finding.

    Attributes:
        roc: 1 - specificity, and sensitivity.
        recall: Recall, and precision.
        silent: Findings that nobody is called to have, though some have them.
    """

    roc: dict[str, tuple[float, float]]
    recall: dict[str, tuple[float, float]]
    silent: list[str]


def rings_of(told: Told, task: Classification | Multilabel, sums: Sums) -> Rings:
    """The operating points of the findings that have curves; several classes have none."""
    found = Rings({}, {}, [])
    if told.study.task.kind == "multiclass":
        return found
    table = task.table(sums, told.facts.threshold).reshape(-1, 4)
    for name, counts in list(zip(classes_of(told), table, strict=True))[:_MOST_LINES]:
        tn, fp, fn, tp = map(float, counts)
        if fn + tp <= 0:
            continue
        recall = tp / (fn + tp)
        if tn + fp > 0:
            found.roc[name] = (fp / (tn + fp), recall)
        if fp + tp > 0:
            found.recall[name] = (recall, tp / (fp + tp))
        else:
            found.silent.append(name)
    return found


def _prevalence(task: Classification | Multilabel, sums: Sums) -> float | None:
    negatives, positives = task.scored(sums)[0]
    total: Numbers = negatives + positives
    return float(positives.sum() / total.sum()) if total.sum() else None


def _areas(told: Told, metric: str, name: str) -> str:
    known = [(model, found.get(metric)) for model, found in told.models.items()]
    words: Sequence[str] = [f"{model} {value:.3f}" for model, value in known if value is not None]
    return f"{name}: {', '.join(words[:10])}." if words else f"{name} cannot be known."
