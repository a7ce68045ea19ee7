"""The only place where a message becomes Flower records, and records become a message.

A message is at most one array and one table of scalars and lists. A short array is in the table, as
bytes under the name of its type: each of Flower's objects is a request of its own. What comes from
the network is checked for type, size and value before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedward.study.errors import FederationError
from fedward.study.messages import (
    Advertised,
    AdvertiseQuery,
    Answer,
    Considered,
    Contribution,
    EvaluateRequest,
    Invitation,
    Masked,
    MaskedContribution,
    MeasureRequest,
    OfferQuery,
    Part,
    Query,
    Refusal,
    Request,
    TrainRequest,
    Unmasked,
    Unmasking,
    UnmaskQuery,
    Vector,
    Words,
)
from fedward.study.scaling import Scaling

_ARRAYS = "arrays"
_VECTOR = "vector"
_TERMS = "terms"
_FLOATS = ("float32", "float32 little-endian", "<f4")
_WORDS = ("uint32", "uint32 little-endian", "<u4")
_MOST = 100_000  # entries of a list; a study has no more hospitals
_LARGEST = 4096  # bytes of a list's entry; the largest, a packed advert, has 2048
_LARGEST_DOCUMENT = 4 << 20  # bytes of a signed document; a roster of tens of thousands of members
_LONGEST = 10_000  # characters of a text
_SHORT = 128 << 10  # bytes of an array that travels in the table


def pack_request(request: Request | Query) -> RecordDict:
    """Flower records of a request or a query."""
    terms: dict[str, Any] = {"study": request.study, "run": request.run, "version": request.version}
    if isinstance(request, OfferQuery):
        terms |= {"signed": request.signed, "roster": request.roster}
        return RecordDict({_TERMS: ConfigRecord(terms)})
    if isinstance(request, AdvertiseQuery):
        return RecordDict({_TERMS: ConfigRecord(terms)})
    terms |= {"round": request.round, **_packed_invitation(request.invitation)}
    if isinstance(request, UnmaskQuery):
        terms |= {"survivors": list(request.survivors), **_packed_map("share", request.shares)}
        return RecordDict({_TERMS: ConfigRecord(terms)})
    if isinstance(request, MeasureRequest):
        return RecordDict({_TERMS: ConfigRecord(terms)})
    terms |= _packed_scaling(request.scaling)
    if isinstance(request, EvaluateRequest):
        terms["part"] = request.part
    elif request.monitor is not None:
        terms["monitor"] = request.monitor
    return _records(request.model, _FLOATS, terms)


def unpack_measure_request(records: RecordDict) -> MeasureRequest:
    """A measure request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return MeasureRequest(
        study=_text(terms, "study"),
        run=_text(terms, "run"),
        round=_number(terms, "round"),
        invitation=_invitation(terms) if "attempt" in terms else None,
        version=_text(terms, "version"),
    )


def unpack_train_request(records: RecordDict) -> TrainRequest:
    """A train request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return TrainRequest(
        study=_text(terms, "study"),
        run=_text(terms, "run"),
        round=_number(terms, "round"),
        model=_vector(records, _FLOATS),
        monitor=_part(terms, "monitor") if "monitor" in terms else None,
        invitation=_invitation(terms) if "attempt" in terms else None,
        scaling=_scaling(terms) if "centers" in terms else None,
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
        round=_number(terms, "round"),
        model=_vector(records, _FLOATS),
        part=_part(terms, "part"),
        invitation=_invitation(terms) if "attempt" in terms else None,
        scaling=_scaling(terms) if "centers" in terms else None,
        version=_text(terms, "version"),
    )


def unpack_offer_query(records: RecordDict) -> OfferQuery:
    """An offer from Flower records.

    Raises:
        FederationError: The records are no offer.
    """
    terms = _terms(records)
    return OfferQuery(
        study=_text(terms, "study"),
        run=_text(terms, "run"),
        signed=_document(terms, "signed"),
        roster=_document(terms, "roster"),
        version=_text(terms, "version"),
    )


def unpack_advertise_query(records: RecordDict) -> AdvertiseQuery:
    """An advertise query from Flower records.

    Raises:
        FederationError: The records are not such a query.
    """
    terms = _terms(records)
    return AdvertiseQuery(
        study=_text(terms, "study"), run=_text(terms, "run"), version=_text(terms, "version")
    )


def unpack_unmask_query(records: RecordDict) -> UnmaskQuery:
    """An unmask query from Flower records.

    Raises:
        FederationError: The records are not such a query.
    """
    terms = _terms(records)
    return UnmaskQuery(
        study=_text(terms, "study"),
        run=_text(terms, "run"),
        round=_number(terms, "round"),
        invitation=_invitation(terms),
        survivors=_texts(terms, "survivors"),
        shares=_map(terms, "share"),
        version=_text(terms, "version"),
    )


def pack_answer(answer: Answer) -> RecordDict:
    """Flower records of an answer."""
    match answer:
        case Refusal():
            texts = {key: _printable(text) for key, text in asdict(answer).items()}
            return RecordDict({_TERMS: ConfigRecord({**texts})})
        case Considered(hospital, approved):
            return RecordDict({_TERMS: ConfigRecord({"hospital": hospital, "approved": approved})})
        case Contribution(hospital, vector):
            return _records(vector, _FLOATS, {"hospital": hospital})
        case MaskedContribution(hospital, masked):
            terms = {"hospital": hospital, "commitment": masked.commitment}
            terms |= _packed_map("share", masked.shares)
            return _records(masked.words, _WORDS, terms)
        case Advertised(hospital, advert):
            return RecordDict({_TERMS: ConfigRecord({"hospital": hospital, "advert": advert})})
        case Unmasked(hospital, unmasking):
            shares = _packed_map("share", unmasking.self_shares)
            seeds = _packed_map("seed", unmasking.pair_seeds)
            return RecordDict(
                {_TERMS: ConfigRecord({"hospital": hospital, **shares, **seeds})},
            )


def unpack_answer(records: RecordDict, *, size: int = 0) -> Answer:
    """An answer from Flower records.

    Args:
        records: What came.
        size: Length that a vector in it must have.

    Raises:
        FederationError: The records are not such an answer, or its vector has another length.
    """
    terms = _terms(records)
    hospital = _text(terms, "hospital")
    if "error" in terms:
        texts = {key: _text(terms, key) for key in ("error", "what", "todo")}
        return Refusal(hospital=hospital, **texts)
    if "approved" in terms:
        return Considered(hospital, _flag(terms, "approved"))
    if "advert" in terms:
        return Advertised(hospital, _bytes(terms, "advert"))
    if "seed_of" in terms:
        return Unmasked(hospital, Unmasking(_map(terms, "share"), _map(terms, "seed")))
    if "commitment" in terms:
        words = _sized(_vector(records, _WORDS), size)
        masked = Masked(words, _map(terms, "share"), _bytes(terms, "commitment"))
        return MaskedContribution(hospital, masked)
    return Contribution(hospital, _sized(_vector(records, _FLOATS), size))


def numbered(records: RecordDict) -> tuple[int, int]:
    """Round and attempt of a packed request; 0 where it has none."""
    terms = _terms(records)
    round_, attempt = terms.get("round", 0), terms.get("attempt", 0)
    return (round_ if isinstance(round_, int) else 0, attempt if isinstance(attempt, int) else 0)


def _records(
    vector: Vector | Words, kind: tuple[str, str, str], terms: dict[str, Any]
) -> RecordDict:
    dtype, form, code = kind
    data = np.ascontiguousarray(vector, dtype=code).tobytes()
    if len(data) <= _SHORT:
        return RecordDict({_TERMS: ConfigRecord({**terms, dtype: data})})
    array = Array(dtype, (len(vector),), form, data)
    return RecordDict({_ARRAYS: ArrayRecord({_VECTOR: array}), _TERMS: ConfigRecord(terms)})


def _packed_invitation(invitation: Invitation | None) -> dict[str, Any]:
    if invitation is None:
        return {}
    return {"attempt": invitation.attempt, "adverts": list(invitation.adverts)}


def _packed_scaling(scaling: Scaling | None) -> dict[str, Any]:
    if scaling is None:
        return {}
    return {"centers": list(scaling.centers), "scales": list(scaling.scales)}


def _packed_map(name: str, entries: Mapping[str, bytes]) -> dict[str, Any]:
    return {f"{name}_of": list(entries), name: list(entries.values())}


def _terms(records: RecordDict) -> ConfigRecord:
    try:
        return records.config_records[_TERMS]
    except KeyError:
        raise _malformed("no terms") from None


def _vector(records: RecordDict, kind: tuple[str, str, str]) -> Any:  # noqa: ANN401 - either dtype
    """The vector, without a copy: plain little-endian numbers leave nothing to parse."""
    dtype, form, code = kind
    short = _terms(records).get(dtype)
    if short is not None:
        return _short(short, code, alone=_ARRAYS not in records)
    try:
        array = records.array_records[_ARRAYS][_VECTOR]
    except KeyError:
        raise _malformed("no vector") from None
    if array.stype != form or array.dtype != dtype or len(array.data) % 4:
        raise _malformed(f"an array of {array.dtype!r} as {array.stype!r}")
    if tuple(array.shape) != (len(array.data) // 4,):
        raise _malformed(f"an array of shape {tuple(array.shape)} in {len(array.data)} bytes")
    return np.frombuffer(array.data, dtype=code)


def _short(data: object, code: str, *, alone: bool) -> Any:  # noqa: ANN401 - either dtype
    if not (isinstance(data, bytes) and len(data) <= _SHORT and len(data) % 4 == 0 and alone):
        raise _malformed("a short array that is none, or not the only one")
    return np.frombuffer(data, dtype=code)


def _sized(vector: Any, size: int) -> Any:  # noqa: ANN401 - the same type comes back
    if vector.shape != (size,):
        raise _malformed(f"a vector of {vector.size} values, expected {size}")
    return vector


def _invitation(terms: ConfigRecord) -> Invitation:
    return Invitation(attempt=_number(terms, "attempt"), adverts=_several_bytes(terms, "adverts"))


def _scaling(terms: ConfigRecord) -> Scaling:
    return Scaling(_reals(terms, "centers"), _reals(terms, "scales"))


def _reals(terms: ConfigRecord, key: str) -> tuple[float, ...]:
    values = _list(terms, key)
    if not all(type(value) is float for value in values):
        raise _malformed(f"no real numbers {key!r}")
    return tuple(values)


def _map(terms: ConfigRecord, name: str) -> dict[str, bytes]:
    names, values = _texts(terms, f"{name}_of"), _several_bytes(terms, name)
    if len(names) != len(values) or len(set(names)) != len(names):
        raise _malformed(f"not one {name!r} for each name")
    return dict(zip(names, values, strict=True))


def _text(terms: ConfigRecord, key: str) -> str:
    value = terms.get(key)
    if not _is_text(value):
        raise _malformed(f"no text {key!r}")
    return value  # type: ignore[return-value]


def _texts(terms: ConfigRecord, key: str) -> tuple[str, ...]:
    values = _list(terms, key)
    if not all(map(_is_text, values)):
        raise _malformed(f"no texts {key!r}")
    return tuple(values)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()


def _bytes(terms: ConfigRecord, key: str) -> bytes:
    value = terms.get(key)
    if not _is_bytes(value):
        raise _malformed(f"no bytes {key!r}")
    return value  # type: ignore[return-value]


def _several_bytes(terms: ConfigRecord, key: str) -> tuple[bytes, ...]:
    values = _list(terms, key)
    if not all(map(_is_bytes, values)):
        raise _malformed(f"no bytes {key!r}")
    return tuple(values)


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes) and len(value) <= _LARGEST


def _document(terms: ConfigRecord, key: str) -> bytes:
    value = terms.get(key)
    if not isinstance(value, bytes) or len(value) > _LARGEST_DOCUMENT:
        raise _malformed(f"no document {key!r}")
    return value


def _flag(terms: ConfigRecord, key: str) -> bool:
    value = terms.get(key)
    if not isinstance(value, bool):
        raise _malformed(f"no yes or no {key!r}")
    return value


def _list(terms: ConfigRecord, key: str) -> list[Any]:
    value = terms.get(key)
    if not isinstance(value, list) or len(value) > _MOST:
        raise _malformed(f"no list {key!r}")
    return value


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _number(terms: ConfigRecord, key: str) -> int:
    value = terms.get(key)
    if type(value) is not int or value < 0:
        raise _malformed(f"no {key}")
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
