"""1,000 users with 50 small colour pictures each, 50 users in a round: how fast is a simulation?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fedward.client.app import open_site
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.privacy.steps import Loss, PlainSteps
from fedward.server.events import Event, RoundFinished
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import make_hospitals
from fedward.study.study import Study, parse_study

CLASSES, SHAPE = 10, (3, 32, 32)
BATCH, RATE = 10, 0.01
CENTER, SCALE = 0.5, 0.5
JUDGED = 500


def study(users: int, cohort: int, rounds: int) -> Study:
    """Every picture is for training: there is nothing to judge on, as in the peer."""
    return settled(
        parse_study(
            {
                "study": {"name": "cohort"},
                "task": {"kind": "multiclass", "classes": [f"c{n}" for n in range(CLASSES)]},
                "model": {"name": "small_cnn", "channels": [16, 32]},
                "data": {
                    "kind": "images",
                    "shape": list(SHAPE),
                    "center": CENTER,
                    "scale": SCALE,
                    "parts": {"by": "file"},
                },
                "training": {
                    "rounds": rounds,
                    "local_epochs": 1,
                    "batch_size": BATCH,
                    "learning_rate": RATE,
                },
                "participation": {"hospitals": users, "invited": cohort},
                "simulation": {"split": "iid"},
            }
        )
    )


def write_pictures(path: Path, count: int) -> None:
    """Noise with a faint picture of the class in it, so that training can be seen to train."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, CLASSES, count)
    templates = rng.integers(0, 60, (CLASSES, *SHAPE), dtype=np.uint8)
    pictures = rng.integers(0, 196, (count, *SHAPE), dtype=np.uint8)
    pictures += templates[labels]
    np.savez(path, train_images=pictures, train_labels=labels)


def make(data: str, folder: str, users: int, cohort: int, rounds: int) -> dict[str, Any]:
    """The hospitals' folders."""
    hospitals = make_hospitals(study(users, cohort, rounds), Path(data), Path(folder), seed=0)
    return {"hospitals": len(hospitals)}


def rounds_of_ours(
    data: str, folder: str, users: int, cohort: int, rounds: int, workers: int
) -> dict[str, Any]:
    """Seconds of each round. The hospitals' data is loaded before, as `fedward simulate` does."""
    torch.set_num_threads(1)
    whole = study(users, cohort, rounds)
    hospitals = sorted(Path(folder).glob("*/hospital.toml"))
    for path in hospitals:
        open_site(path).load(whole.digest())
    steps = _count_steps()
    ends = [time.perf_counter()]
    steps_at_end: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished):
            ends.append(time.perf_counter())
            steps_at_end.append(steps())

    with InProcessGrid(hospitals, workers=workers, patience=0) as grid:
        outcome = Federation(whole, grid, run="benchmark", seed=0, listener=listen)
        vector = outcome.train_and_judge().model
    model = build(whole, seed=0)
    before = judged(model, data)
    flat.load(model, vector)
    return {
        "rounds": np.diff(ends).tolist(),
        # Steps in worker processes are not seen from here.
        "steps": steps_at_end[-1] if workers == 1 else None,
        "parameters": len(vector),
        "loss": [before, judged(model, data)],
    }


def scaled(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures as the study scales them."""
    return torch.from_numpy((pictures.astype(np.float32) / 255 - CENTER) / SCALE)


@torch.no_grad()
def judged(model: nn.Module, data: str) -> float:
    """Mean loss on the first pictures."""
    with np.load(data) as archive:
        pictures, labels = archive["train_images"][:JUDGED], archive["train_labels"][:JUDGED]
    outputs = model(scaled(pictures))
    return functional.cross_entropy(outputs, torch.from_numpy(labels)).item()


def _count_steps() -> Callable[[], int]:
    """Count the steps of this process from now on."""
    count = 0
    gradient = PlainSteps.gradient

    def counted(self: PlainSteps, loss: Loss, inputs: Tensor, labels: Tensor) -> None:
        nonlocal count
        count += 1
        gradient(self, loss, inputs, labels)

    PlainSteps.gradient = counted  # type: ignore[method-assign]
    return lambda: count
