"""The tree of protocol errors."""

from __future__ import annotations

import pickle

import pytest

from fedward.privacy.protocol_errors import (
    BadAdvert,
    BadCertificate,
    BadRequest,
    BadSeal,
    BadShare,
    BadSignature,
    ProtocolError,
    Replayed,
    TooFew,
)
from fedward.study.errors import RefusedError

KINDS = [
    *(BadAdvert, BadCertificate, BadRequest, BadSeal, BadShare, BadSignature, Replayed, TooFew),
]


def test_a_protocol_error_is_a_refusal() -> None:
    assert issubclass(ProtocolError, RefusedError)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_when_it_is_raised_and_survives_pickling(kind: type[ProtocolError]) -> None:
    error = kind("what", todo="todo", where="where")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert kind.__doc__
    assert isinstance(error, ProtocolError)
    assert (type(again), again.line()) == (kind, "where: what; todo")
