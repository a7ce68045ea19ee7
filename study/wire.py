"""The only place where a message becomes Flower records, and records become a message.

A request is one array and one table of scalars; an answer is one array and one table. What comes
from the network is checked for type, size and value before it is used.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedward.study.errors import FederationError
from fedward.study.messages import (
    Answer,
    Contribution,
    EvaluateRequest,
    Part,
    Refusal,
    Request,
    TrainRequest,
    Vector,
)

_VECTOR = "vector"
_TERMS = "terms"
_BYTES = "float32 little-endian"


def pack_request(request: Request) -> RecordDict:
    """Flower records of a request."""
    terms = {k: v for k, v in _scalars(request).items() if v is not None}
    return _records(request.model, terms)


def unpack_train_request(records: RecordDict) -> TrainRequest:
    """A train request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return TrainRequest(
        study=_text(terms, "study"),
        run=_text(terms, "run"),
        round=_round(terms),
        model=_vector(records),
        monitor=_part(terms, "monitor") if "monitor" in terms else None,
        version=_text(terms, "version"),
    )


def unpack_evaluate_request(records: RecordDict) -> EvaluateRequest:
    """An evaluate request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return EvaluateRequest(
        study=_text(terms, "study"),
        run=_text(terms, "run"),
        round=_round(terms),
        model=_vector(records),
        part=_part(terms, "part"),
        version=_text(terms, "version"),
    )


def pack_answer(answer: Answer) -> RecordDict:
    """Flower records of an answer."""
    if isinstance(answer, Refusal):
        texts = {key: _printable(text) for key, text in asdict(answer).items()}
        return RecordDict({_TERMS: ConfigRecord({**texts})})
    return _records(answer.vector, {"hospital": answer.hospital})


def unpack_answer(records: RecordDict, *, size: int) -> Answer:
    """An answer from Flower records.

    Args:
        records: What came.
        size: Length that a contribution's vector must have.

    Raises:
        FederationError: The records are not such an answer, or its vector has another length.
    """
    terms = _terms(records)
    hospital = _text(terms, "hospital")
    if "error" in terms:
        texts = {key: _text(terms, key) for key in ("error", "what", "todo")}
        return Refusal(hospital=hospital, **texts)
    vector = _vector(records)
    if vector.shape != (size,):
        raise _malformed(f"a vector of {vector.size} values, expected {size}")
    return Contribution(hospital=hospital, vector=vector)


def _scalars(request: Request) -> dict[str, Any]:
    return {k: v for k, v in vars(request).items() if k != "model"}


def _records(vector: Vector, terms: dict[str, Any]) -> RecordDict:
    data = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    array = Array("float32", (len(vector),), _BYTES, data)
    return RecordDict({"arrays": ArrayRecord({_VECTOR: array}), _TERMS: ConfigRecord(terms)})


def _terms(records: RecordDict) -> ConfigRecord:
    try:
        return records.config_records[_TERMS]
    except KeyError:
        raise _malformed("no terms") from None


def _vector(records: RecordDict) -> Vector:
    """The vector, without a copy: plain little-endian numbers leave nothing to parse."""
    try:
        array = records.array_records["arrays"][_VECTOR]
    except KeyError:
        raise _malformed("no vector") from None
    if array.stype != _BYTES or array.dtype != "float32" or len(array.data) % 4:
        raise _malformed(f"an array of {array.dtype!r} as {array.stype!r}")
    if tuple(array.shape) != (len(array.data) // 4,):
        raise _malformed(f"an array of shape {tuple(array.shape)} in {len(array.data)} bytes")
    return np.frombuffer(array.data, dtype="<f4")


def _text(terms: ConfigRecord, key: str) -> str:
    value = terms.get(key)
    if not isinstance(value, str) or len(value) > 10_000 or not value.isprintable():
        raise _malformed(f"no text {key!r}")
    return value


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _round(terms: ConfigRecord) -> int:
    value = terms.get("round")
    if type(value) is not int or value < 0:
        raise _malformed("no round")
    return value


def _part(terms: ConfigRecord, key: str) -> Part:
    for part in get_args(Part):
        if terms.get(key) == part:
            return part  # type: ignore[no-any-return]
    raise _malformed(f"no part {key!r}")


def _malformed(what: str) -> FederationError:
    return FederationError(
        f"a message that Fedward does not speak: {what}",
        todo="run the same version of fedward on both sides",
    )
