"""Settings of the clinical studies, chosen by cross-validation within the training parts alone.

    python benchmarks/clinical_tuning.py STUDY.toml --data PATH GRID.json [--metric accuracy]

GRID.json is a list of changes to the study, each `{"training.learning_rate": 0.1, ...}`. Every
hospital's training patients are divided into as many pieces, its classes (or events) in proportion;
each piece in turn is held out at all hospitals, these train on the rest with the clients' own code,
models are averaged by records in the clear (secure sums give the same up to rounding, and take
longer), and each round's model is judged on all that was held out. The test part is let go before
anything is trained. The printed figure is the mean over pieces, at the round that the study ends
with and at the round with the best mean. Only for studies whose strategy is FedAvg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.client.hospital import read_hospital
from fedward.client.randomness import generator
from fedward.client.site import Site
from fedward.client.training import train
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.schedule import noise_of, steps_of_round
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import LocalSteps, PlainSteps
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.simulate import one_thread
from fedward.study.messages import Vector
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study, parse_study, read_study
from fedward.study.task import SurvivalTask

Array = NDArray[Any]


class Piece(NamedTuple):
    """One hospital's training part, divided."""

    kept: Records
    held: Records


class Found(NamedTuple):
    """A setting's mean over the held-out pieces: when the study ends, and at its best round."""

    at_end: float
    best: float
    best_round: int


def main() -> None:
    """Print each setting's figure, best first."""
    parser = argparse.ArgumentParser(description="Choose settings within the training parts.")
    parser.add_argument("study", type=Path)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--divisions", type=int, default=2)
    parser.add_argument("--parts", type=int, default=5)
    parser.add_argument("--metric", default="accuracy")
    options = parser.parse_args()
    study, grid = read_study(options.study), json.loads(options.grid.read_text("utf-8"))
    found = []
    for changes in grid:
        here = tried(
            changed(study, changes),
            options.data,
            options.metric,
            divisions=options.divisions,
            parts=options.parts,
        )
        found.append((here, changes))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for here, changes in sorted(found, key=lambda pair: -pair[0].at_end):
        print(json.dumps({**here._asdict(), **changes}))


def changed(study: Study, changes: Mapping[str, Any]) -> Study:
    """The study with `{"training.rounds": 5}` set in it; None takes a key away."""
    values = study.model_dump(mode="json", exclude_none=True)
    for path, value in changes.items():
        *tables, key = path.split(".")
        place = values
        for table in tables:
            place = place[table]
        if value is None:
            place.pop(key, None)
        else:
            place[key] = value
    return parse_study(values)


def tried(study: Study, data: Path, metric: str, *, divisions: int, parts: int) -> Found:
    """Cross-validate one setting."""
    study = settled(study)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        files = make_hospitals(study, data, Path(folder), seed=0)
        training = [_training(study, file) for file in files]
    curves = [
        curve(study, split, metric, seed=division)
        for division in range(divisions)
        for split in _splits(study, training, parts, seed=division)
    ]
    middle = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    best = int(np.argmax(middle))
    return Found(round(middle[-1], 4), round(middle[best], 4), best + 1)


def _training(study: Study, file: Path) -> Records:
    """A hospital's training part; its other parts are let go here."""
    return Site(read_hospital(file), file.parent).load(study.digest()).parts["train"]


def _splits(
    study: Study, training: Sequence[Records], parts: int, *, seed: int
) -> Iterator[list[Piece]]:
    """For each piece, the hospitals' records without it, and the records to judge on."""
    folds = StratifiedKFold(parts, shuffle=True, random_state=seed)
    each = [
        list(folds.split(np.zeros(len(records)), _strata(study, records))) for records in training
    ]
    for piece in range(parts):
        yield [
            Piece(*(_chosen(records, rows) for rows in pieces[piece]))
            for records, pieces in zip(training, each, strict=True)
        ]


def _strata(study: Study, records: Records) -> Array:
    survival = isinstance(study.task, SurvivalTask)
    return (records.labels[:, 1] if survival else records.labels).numpy()


def _chosen(records: Records, rows: Array) -> Records:
    wanted = torch.from_numpy(rows)
    return Records(*records.batch(wanted), records.patients[wanted])


def curve(study: Study, split: Sequence[Piece], metric: str, *, seed: int) -> list[float]:
    """The metric over what is held out, after 1, 2, ... rounds of federated averaging."""
    model, task = build(study, seed=seed), task_of(study)
    weights = np.array([len(piece.kept) for piece in split], dtype=np.float64)
    weights /= weights.sum()
    found = []
    for server_round in range(1, study.training.rounds + 1):
        now = flat.flatten(model)
        after = [
            _trained(study, now, piece.kept, (seed, server_round, place))
            for place, piece in enumerate(split)
        ]
        flat.load(model, np.average(after, axis=0, weights=weights).astype(np.float32))
        sums = sum(metric_sums(model, piece.held, task) for piece in split)
        found.append(float(task.metrics(sums)[metric] or 0.0))
    return found


def _trained(study: Study, now: Vector, records: Records, names: tuple[int, ...]) -> Vector:
    """The model of one hospital after a round."""
    model = build(study, seed=0)
    flat.load(model, now)
    steps = _steps(study, records, names)
    train(model, records, study, task_of(study), steps, server_round=names[1])
    return flat.flatten(model)


def _steps(study: Study, records: Records, names: tuple[int, ...]) -> LocalSteps:
    training, privacy = study.training, study.privacy
    if not isinstance(privacy, LocalPrivacy):
        whole = training.batch_size == "all"
        return PlainSteps(
            batch_size=None if whole else int(training.batch_size),
            epochs=training.local_epochs,
            steps=training.local_steps,
            generator=generator(0, *names, device="cpu"),
        )
    rate = privacy.rate_of(len(records))
    return PatientSteps(
        noise_multiplier=noise_of(study, privacy, rate),
        clipping_norm=privacy.clipping_norm,
        sampling_rate=rate,
        records_per_patient=privacy.records_per_patient,
        divisor=privacy.divisor_of(len(records)),
        steps=steps_of_round(study, rate),
        sampling=SecretStream.pretended(0, "sample", *names),
        noise=SecretStream.pretended(0, "noise", *names),
        clipping=privacy.clipping,
    )


if __name__ == "__main__":
    main()
