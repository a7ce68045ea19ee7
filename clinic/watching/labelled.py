"""The metric when the truth becomes known: labels of a file, and the answers that were kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn import metrics

from fedward.client.data.cells import Wanted
from fedward.client.data.csv_file import read_csv
from fedward.client.data.targets import targets
from fedward.clinic.watching.folder import About, Figures, Watched, read, write
from fedward.clinic.watching.kept_scores import digest_of, said_under
from fedward.clinic.watching.watch import refuse_unkept
from fedward.privacy.whole_file import OWNERS, write_whole
from fedward.study.errors import DataError
from fedward.study.study import Study
from fedward.study.task import ClassTask, MultilabelTask, RegressionTask

ID = "id"
"""Name of the column with the answers' ids."""

_DIGEST = 16  # bytes of an id's
_DIGITS = 2  # of what is shown: one record more hardly shows
_Numbers = NDArray[np.float64]


def renewed(labels: Path, about: About, files: Watched) -> Figures:
    """Metrics over all records that have a label in the file and an answer that was kept.

    They take the earlier ones' place once as many records have come as may be spoken of: whoever
    looks before and after one label sees at most what as many changed together. Of patients with
    several records this says nothing.

    A label that is empty is not yet known. A figure that rests on fewer records than may be spoken
    of, as that of a class with few, is left out; if all of them are few, nothing is told.

    Args:
        labels: CSV with the columns `id` and the study's label, or labels.
        about: The model.
        files: The model's.

    Raises:
        DataError: A file cannot be read, a label cannot be, or an id stands twice.
        OptionError: Answers of such a task are not kept.
        OSError: Nothing can be written.
    """
    study = about.contract(str(files.about))
    refuse_unkept(study)
    names, columns = study.data.label_columns, frozenset([ID, *study.data.label_columns])
    if ID in names:
        raise DataError(
            "the study's label is called id", todo="such answers cannot be labelled later"
        )
    cells = read_csv(labels, Wanted(columns))
    ids = cells.need(ID).astype(str).tolist()
    if len(set(ids)) < len(ids):
        raise DataError("an id stands twice", todo="give each record once", where=str(labels))
    said_of = said_under(files.scores, ids, days=about.kept_days)
    kept = np.array([said is not None for said in said_of], dtype=bool)
    for name in names:
        cells.need(name)
        kept &= ~cells.missing(name)  # not yet known
    before, known = read(files.figures, Figures), frozenset[bytes]()
    if before is not None and before.records:
        known = _digests(files.judged)
    now = frozenset(digest_of(name) for name, there in zip(ids, kept, strict=True) if there)
    if len(now - known) < about.fewest:
        return before or Figures(records=0, metrics={})
    some = cells.only(pd.Series(kept, index=cells.frame.index))
    truth = targets(
        [some.need(name).tolist() for name in names],
        study.data,
        study.task,
        where=str(labels),
        rows=np.flatnonzero(kept),
    )
    each = zip(said_of, kept, strict=True)
    said = np.stack([row for row, there in each if there and row is not None])
    values = _metrics(said, truth.astype(np.float64), study, about)
    found = Figures(
        records=len(said) - len(said) % about.fewest,
        metrics={name: round(value, _DIGITS) for name, value in values.items()},
    )
    write_whole(files.judged, b"".join(sorted(now)), mode=OWNERS)  # first: a kill shows no more
    write(files.figures, found)
    return found


def _digests(path: Path) -> frozenset[bytes]:
    """Of the records that the figures are of; none if they are of an earlier version."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return frozenset()
    return frozenset(content[n : n + _DIGEST] for n in range(0, len(content), _DIGEST))


def _metrics(said: _Numbers, truth: _Numbers, study: Study, about: About) -> dict[str, float]:
    match study.task:
        case ClassTask(kind="binary"):
            score = softmax(said, axis=1)[:, 1]
            return _of_finding(score, truth, about)
        case ClassTask():
            return _of_classes(softmax(said, axis=1), truth, about.fewest)
        case MultilabelTask():
            each = zip(study.task.classes, expit(said).T, truth.T, strict=True)
            return {
                f"{metric} {name}": value
                for name, score, own in each
                for metric, value in _of_finding(score, own, about).items()
            }
        case RegressionTask():
            low, high = study.task.bounds
            return _of_number(said[:, 0] * (high - low) / 2 + (low + high) / 2, truth)
    return {}


def _of_finding(score: _Numbers, truth: _Numbers, about: About) -> dict[str, float]:
    called = (score >= about.threshold).astype(np.float64)
    found = {
        "accuracy": metrics.accuracy_score(truth, called),
        "brier": float(np.mean((score - truth) ** 2)),
    }
    ill = int(truth.sum())
    if min(ill, len(truth) - ill) >= about.fewest:
        found |= {
            "auc": metrics.roc_auc_score(truth, score),
            "average_precision": metrics.average_precision_score(truth, score),
            "sensitivity": metrics.recall_score(truth, called, zero_division=0),
            "specificity": metrics.recall_score(truth, called, pos_label=0, zero_division=0),
        }
    return {name: float(value) for name, value in found.items()}


def _of_classes(shares: _Numbers, truth: _Numbers, fewest: int) -> dict[str, float]:
    called, classes = shares.argmax(axis=1), shares.shape[1]
    found = {"accuracy": float(metrics.accuracy_score(truth, called))}
    if np.bincount(truth.astype(int), minlength=classes).min() >= fewest:
        each = [metrics.roc_auc_score(truth == k, shares[:, k]) for k in range(classes)]
        found["auc"] = float(np.mean(each))
        found["f1"] = float(metrics.f1_score(truth, called, average="macro"))
    return found


def _of_number(said: _Numbers, truth: _Numbers) -> dict[str, float]:
    return {
        "mae": float(metrics.mean_absolute_error(truth, said)),
        "rmse": float(metrics.root_mean_squared_error(truth, said)),
        "r2": float(metrics.r2_score(truth, said)),
    }
