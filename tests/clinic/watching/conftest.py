"""Pictures as a model was trained on, a reference of them, and ways to watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedward.clinic.watching.cells import histograms_of, placed
from fedward.clinic.watching.reference import Expected, Reference
from fedward.clinic.watching.watch import Model, Watch
from fedward.study.study import Study
from tests.clinic.serving.small_models import PIXELS, study_of

Pictures = NDArray[np.float32]
Begin = Callable[..., Watch]

STUDY: Study = study_of(
    {"kind": "images", "shape": [1, PIXELS, PIXELS], "statistics": {"bins": 10, "fewest": 10}}
)


def pictures(count: int, seed: int, *, brighter: float = 0.0) -> Pictures:
    """Dark pictures with something bright, as a model sees them: from -1 to 1."""
    random = np.random.default_rng(seed)
    shape = (count, 1, PIXELS, PIXELS)
    ground = random.uniform(0.1, 0.3, (count, 1, 1, 1)) + random.uniform(0, 0.1, shape)
    bright = random.uniform(size=shape) > 0.9
    pixels = np.clip(ground + 0.5 * bright + brighter, 0, 1)
    found: Pictures = ((pixels - 0.5) / 0.5).astype(np.float32)
    return found


def said_of(inputs: Pictures) -> NDArray[np.float32]:
    """Logits that follow the mean of a picture."""
    mean = inputs.mean(axis=(1, 2, 3))
    return np.stack([np.zeros(len(mean)), 8 * mean + 4], axis=1).astype(np.float32)


def reference(study: Study = STUDY, count: int = 500) -> Reference:
    """Of so many pictures."""
    inputs = pictures(count, 1)
    histograms = histograms_of(study)
    cells = placed(histograms, study, inputs, said_of(inputs))
    found = [
        Expected(
            kind=h.kind,
            name=h.name,
            cells=tuple(np.bincount(places, minlength=h.cells).tolist()),
        )
        for h, places in zip(histograms, cells, strict=True)
    ]
    return Reference(study=study.digest(), fewest=10, histograms=tuple(found), judged={"auc": 0.75})


def fed(watch: Watch, count: int, seed: int, *, brighter: float = 0.0, sign: float = 1.0) -> None:
    for start in range(0, count, 50):
        inputs = (sign * pictures(min(50, count - start), seed + start, brighter=brighter)).copy()
        watch.saw(inputs, said_of(inputs), f"request-{seed}-{start}")


def alarms(watch: Watch) -> set[str]:
    return {drift.name for drift in watch.shown if drift.alarm}


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Begins to watch in one folder; what is not closed is closed at the end."""
    begun: list[Watch] = []

    def watch(known: Reference | None = None, **how: Any) -> Watch:  # noqa: ANN401
        folder = how.pop("folder", tmp_path / "watched")
        model = Model("chest", STUDY, None, 0.5, how.pop("weights", None))
        made = Watch(model, reference() if known is None else known, folder, **how)
        begun.append(made)
        return made

    yield watch
    for made in begun:
        if made.files._lock is not None:
            made.close()
