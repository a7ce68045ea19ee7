"""A small study as values, and ways to change one key of it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import settings

from fedward.study.study import Study, parse_study

settings.register_profile(
    "fedward", derandomize=True, deadline=None, database=None, max_examples=50
)
settings.load_profile("fedward")

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]

SMALL: Values = {
    "study": {"name": "tiny"},
    "task": {"kind": "binary", "classes": ["benign", "malignant"]},
    "model": {"name": "mlp", "hidden": [4]},
    "data": {
        "kind": "table",
        "label": "diagnosis",
        "features": {
            "age": {"center": 55.0, "scale": 10.0},
            "sex": {"categories": ["f", "m"]},
        },
    },
    "training": {"rounds": 3, "local_epochs": 1, "learning_rate": 0.1},
    "participation": {"hospitals": 3},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--renew-pictures`: browser tests write what they see into docs/pictures."""
    parser.addoption("--renew-pictures", action="store_true", help="write docs/pictures anew")


@pytest.fixture
def renew(pytestconfig: pytest.Config) -> bool:
    """Whether pictures are to be taken anew."""
    return bool(pytestconfig.getoption("--renew-pictures"))


@pytest.fixture(autouse=True)
def as_loud_as_before() -> Iterator[None]:
    """A command that runs in the tests' process makes loggers quiet: the next test hears again."""
    loggers = [logging.getLogger(name) for name in ("fedward", "flwr", "opacus", "matplotlib")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def values_with() -> ValuesWith:
    """The small study's values, with `{"training.rounds": 5}` set in them."""

    def changed(changes: Mapping[str, object]) -> Values:
        values = copy.deepcopy(SMALL)
        for path, value in changes.items():
            *tables, key = path.split(".")
            place = values
            for table in tables:
                place = place.setdefault(table, {})
            place[key] = copy.deepcopy(value)
        return values

    return changed


StudyWith = Callable[[Mapping[str, object]], Study]


@pytest.fixture(scope="session")
def study_with(values_with: ValuesWith) -> StudyWith:
    """The small study, with `{"training.rounds": 5}` set in it."""
    return lambda changes: parse_study(values_with(changes))
