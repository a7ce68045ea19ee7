"""Modules of the benchmarks, which are no package: a program finds them in its own folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

ModuleNamed = Callable[[str], ModuleType]


@pytest.fixture
def module_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleNamed]:
    """A module beside the benchmarks, forgotten after the test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]
