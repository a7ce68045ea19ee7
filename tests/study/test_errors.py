"""Errors are one tree, one line each, and survive the way between processes."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.study import errors
from fedward.study.errors import (
    DataError,
    FederationError,
    FedwardError,
    HospitalError,
    InputError,
    MissingExtra,
    OptionError,
    RefusedError,
    StudyError,
    TrainingError,
)

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_fedward_error(kind: type[Exception]) -> None:
    assert issubclass(kind, FedwardError)


@pytest.mark.parametrize("kind", [StudyError, HospitalError, DataError, OptionError, MissingExtra])
def test_what_a_user_gave_wrong_exits_with_2(kind: type[FedwardError]) -> None:
    assert issubclass(kind, InputError)
    assert kind.exit_code == 2


@pytest.mark.parametrize("kind", [FedwardError, TrainingError, RefusedError, FederationError])
def test_everything_else_exits_with_1(kind: type[FedwardError]) -> None:
    assert not issubclass(kind, InputError)
    assert kind.exit_code == 1


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = DataError("holds no rows", todo="give a fuller file", where="patients.csv")

    assert str(error) == "patients.csv: holds no rows; give a fuller file"


def test_an_error_without_place_or_advice_is_only_what_is_wrong() -> None:
    assert str(DataError("holds no rows")) == "holds no rows"


@given(st.text(), st.text(), st.text())
def test_an_error_is_always_one_line(what: str, todo: str, where: str) -> None:
    assert len(DataError(what, todo=todo, where=where).line().splitlines()) <= 1


def test_a_study_error_names_file_key_what_was_given_and_what_is_allowed() -> None:
    error = StudyError("training.rounds", given="0", allowed="1 or more")

    assert str(error) == "training.rounds: given 0; allowed: 1 or more"
    assert str(error.in_file(Path("heart.toml"))) == (
        "heart.toml: training.rounds: given 0; allowed: 1 or more"
    )


@pytest.mark.parametrize(
    "error",
    [
        DataError("holds no rows", todo="give a fuller file", where="patients.csv"),
        TrainingError("out of memory"),
        StudyError("training.rounds", given="0", allowed="1 or more", file="heart.toml"),
        HospitalError("name", given="3", allowed="text"),
    ],
)
def test_an_error_survives_pickling(error: FedwardError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.what, again.todo, again.where) == (error.what, error.todo, error.where)


def test_an_error_keeps_what_it_knows_about_its_key_through_pickling() -> None:
    error = StudyError("training.rounds", given="0", allowed="1 or more")

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert str(again.in_file("heart.toml")) == str(error.in_file("heart.toml"))


def test_an_error_says_nothing_that_a_terminal_obeys() -> None:
    """What somebody else wrote stands in it."""
    line = DataError("given '\x1b[2J\u202e'", todo="mend\x07it", where="a\x9bb").line()

    assert line == "a\ufffdb: given '\ufffd[2J\ufffd'; mend\ufffdit"
