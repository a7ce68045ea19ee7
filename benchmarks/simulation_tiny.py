"""Four hospitals with a tiny model: nearly all of a round is what Fedward adds to training."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedward.client.app import open_site
from fedward.client.loaded import Loaded
from fedward.client.randomness import generator
from fedward.client.training import train
from fedward.privacy.steps import PlainSteps
from fedward.server.events import Event, RoundFinished
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import make_hospitals
from fedward.study.study import Study, parse_study

HOSPITALS, FEATURES, RECORDS, TRAINED_ON = 4, 8, 58, 40
HIDDEN, BATCH, RATE = 8, 10, 0.1
WARM_UP = 5


def study(rounds: int) -> Study:
    """40 of each hospital's 58 records are for training: 4 steps of 10 in a round."""
    return parse_study(
        {
            "study": {"name": "tiny"},
            "task": {"kind": "binary", "classes": ["no", "yes"]},
            "model": {"name": "mlp", "hidden": [HIDDEN]},
            "data": {
                "kind": "table",
                "label": "label",
                "features": {f"x{n}": {} for n in range(FEATURES)},
                "parts": {"by": "random"},
            },
            "training": {
                "rounds": rounds,
                "local_epochs": 1,
                "batch_size": BATCH,
                "learning_rate": RATE,
            },
            "participation": {"hospitals": HOSPITALS},
        }
    )


def write_records(path: Path) -> None:
    """A table that can be learnt from."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(HOSPITALS * RECORDS, FEATURES))
    labels = (inputs.sum(axis=1) + rng.normal(size=len(inputs)) > 0).astype(int)
    header = ",".join([*(f"x{n}" for n in range(FEATURES)), "label"])
    table = np.column_stack([inputs, labels])
    formats = [*["%.6f"] * FEATURES, "%d"]
    np.savetxt(path, table, delimiter=",", header=header, comments="", fmt=formats)


def rounds_of_ours(data: str, rounds: int) -> dict[str, Any]:
    """A whole run from the data file to the judged model; seconds of each round."""
    torch.set_num_threads(1)  # as `fedward simulate` does
    with tempfile.TemporaryDirectory() as folder:
        whole = study(rounds)
        hospitals = make_hospitals(whole, Path(data), Path(folder), seed=0)
        return {"rounds": _federate(whole, hospitals)}


def cost_of_rounds(data: str, rounds: int, repeats: int) -> dict[str, Any]:
    """Seconds a round with and without everything around training, in turns."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        whole = study(rounds + WARM_UP)
        hospitals = make_hospitals(whole, Path(data), Path(folder), seed=0)
        loaded = [open_site(path).load(whole.digest()) for path in hospitals]
        whole_rounds, bare_rounds = [], []
        for number in range(repeats):
            seconds = _federate(whole, hospitals, run=f"benchmark-{number}")
            whole_rounds.append(statistics.median(seconds[WARM_UP:]))
            bare_rounds.append(_train_only(loaded, rounds))
    return {"whole": whole_rounds, "bare": bare_rounds}


def _federate(whole: Study, hospitals: list[Path], run: str = "benchmark") -> list[float]:
    ends = [time.perf_counter()]

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished):
            ends.append(time.perf_counter())

    with InProcessGrid(hospitals, workers=1) as grid:
        Federation(whole, grid, run=run, seed=0, listener=listen).train_and_judge()
    return np.diff(ends).tolist()


def _train_only(hospitals: list[Loaded], rounds: int) -> float:
    """Seconds a round of the hospitals' training alone; the copies are made beforehand."""
    seconds = []
    for number in range(rounds + WARM_UP):
        todo = [(hospital, copy.deepcopy(hospital.model), _steps(number)) for hospital in hospitals]
        started = time.perf_counter()
        for hospital, model, steps in todo:
            train(model, hospital.parts["train"], hospital.study, hospital.task, steps)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:])


def _steps(number: int) -> PlainSteps:
    return PlainSteps(batch_size=BATCH, epochs=1, steps=None, generator=generator(0, number))
