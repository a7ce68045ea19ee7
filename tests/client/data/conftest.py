"""Studies of signals, and the real files that readers are held against."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedward.study.study import Study, parse_study

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # wfdb 4.3 uses what pandas 4 will take away
    import wfdb  # noqa: F401

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
SignalStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def signal_study() -> SignalStudy:
    """A study of one channel `a`, 8 samples at 100 a second, two classes; keys of [data] change."""

    def study(classes: tuple[str, ...] = ("no", "yes"), **data: Any) -> Study:  # noqa: ANN401
        values: Mapping[str, Any] = {
            "study": {"name": "signals"},
            "task": {"kind": "multiclass", "classes": list(classes)},
            "model": {"name": "any"},
            "data": {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8, **data},
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "aggregation": {"secure": False},
            "participation": {"hospitals": 1},
        }
        return parse_study(dict(values))

    return study


def shared(folder: str) -> Path:
    """A data set; the test is skipped where it is absent."""
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    return path
