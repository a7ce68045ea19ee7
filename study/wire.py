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
from fedward.study.wire_terms import (
    bytes_in,
    document_in,
    flag_in,
    list_in,
    malformed,
    map_in,
    number_in,
    reals_in,
    several_bytes_in,
    text_in,
    texts_in,
)

_ARRAYS = "arrays"
_VECTOR = "vector"
_TERMS = "terms"
_FLOATS = ("float32", "float32 little-endian", "<f4")
_WORDS = ("uint32", "uint32 little-endian", "<u4")
_SHORT = 128 << 10  # bytes of an array that travels in the table

SHORT_MESSAGE = 256 << 10
"""Bytes of an answer that may travel inside its announcement, of those that hold no long array."""


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
    else:
        terms |= {} if request.monitor is None else {"monitor": request.monitor}
        terms |= _packed_counted(request.counted)
    return _records(request.model, _FLOATS, terms)


def unpack_measure_request(records: RecordDict) -> MeasureRequest:
    """A measure request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return MeasureRequest(
        study=text_in(terms, "study"),
        run=text_in(terms, "run"),
        round=number_in(terms, "round"),
        invitation=_invitation(terms) if "attempt" in terms else None,
        version=text_in(terms, "version"),
    )


def unpack_train_request(records: RecordDict) -> TrainRequest:
    """A train request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return TrainRequest(
        study=text_in(terms, "study"),
        run=text_in(terms, "run"),
        round=number_in(terms, "round"),
        model=_vector(records, _FLOATS),
        monitor=_part(terms, "monitor") if "monitor" in terms else None,
        invitation=_invitation(terms) if "attempt" in terms else None,
        scaling=_scaling(terms) if "centers" in terms else None,
        counted=_counted(terms) if "counted" in terms else {},
        version=text_in(terms, "version"),
    )


def unpack_evaluate_request(records: RecordDict) -> EvaluateRequest:
    """An evaluate request from Flower records.

    Raises:
        FederationError: The records are not such a request.
    """
    terms = _terms(records)
    return EvaluateRequest(
        study=text_in(terms, "study"),
        run=text_in(terms, "run"),
        round=number_in(terms, "round"),
        model=_vector(records, _FLOATS),
        part=_part(terms, "part"),
        invitation=_invitation(terms) if "attempt" in terms else None,
        scaling=_scaling(terms) if "centers" in terms else None,
        version=text_in(terms, "version"),
    )


def unpack_offer_query(records: RecordDict) -> OfferQuery:
    """An offer from Flower records.

    Raises:
        FederationError: The records are no offer.
    """
    terms = _terms(records)
    return OfferQuery(
        study=text_in(terms, "study"),
        run=text_in(terms, "run"),
        signed=document_in(terms, "signed"),
        roster=document_in(terms, "roster"),
        version=text_in(terms, "version"),
    )


def unpack_advertise_query(records: RecordDict) -> AdvertiseQuery:
    """An advertise query from Flower records.

    Raises:
        FederationError: The records are not such a query.
    """
    terms = _terms(records)
    return AdvertiseQuery(
        study=text_in(terms, "study"), run=text_in(terms, "run"), version=text_in(terms, "version")
    )


def unpack_unmask_query(records: RecordDict) -> UnmaskQuery:
    """An unmask query from Flower records.

    Raises:
        FederationError: The records are not such a query.
    """
    terms = _terms(records)
    return UnmaskQuery(
        study=text_in(terms, "study"),
        run=text_in(terms, "run"),
        round=number_in(terms, "round"),
        invitation=_invitation(terms),
        survivors=texts_in(terms, "survivors"),
        shares=map_in(terms, "share"),
        version=text_in(terms, "version"),
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
    hospital = text_in(terms, "hospital")
    if "error" in terms:
        texts = {key: text_in(terms, key) for key in ("error", "what", "todo")}
        return Refusal(hospital=hospital, **texts)
    if "approved" in terms:
        return Considered(hospital, flag_in(terms, "approved"))
    if "advert" in terms:
        return Advertised(hospital, bytes_in(terms, "advert"))
    if "seed_of" in terms:
        return Unmasked(hospital, Unmasking(map_in(terms, "share"), map_in(terms, "seed")))
    if "commitment" in terms:
        words = _sized(_vector(records, _WORDS), size)
        masked = Masked(words, map_in(terms, "share"), bytes_in(terms, "commitment"))
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


def _packed_counted(counted: Mapping[str, int]) -> dict[str, Any]:
    return {"counted_of": list(counted), "counted": list(counted.values())} if counted else {}


def _packed_map(name: str, entries: Mapping[str, bytes]) -> dict[str, Any]:
    return {f"{name}_of": list(entries), name: list(entries.values())}


def _terms(records: RecordDict) -> ConfigRecord:
    try:
        return records.config_records[_TERMS]
    except KeyError:
        raise malformed("no terms") from None


def _vector(records: RecordDict, kind: tuple[str, str, str]) -> Any:  # noqa: ANN401 - either dtype
    """The vector, without a copy: plain little-endian numbers leave nothing to parse."""
    dtype, form, code = kind
    short = _terms(records).get(dtype)
    if short is not None:
        return _short(short, code, alone=_ARRAYS not in records)
    try:
        array = records.array_records[_ARRAYS][_VECTOR]
    except KeyError:
        raise malformed("no vector") from None
    if array.stype != form or array.dtype != dtype or len(array.data) % 4:
        raise malformed(f"an array of {array.dtype!r} as {array.stype!r}")
    if tuple(array.shape) != (len(array.data) // 4,):
        raise malformed(f"an array of shape {tuple(array.shape)} in {len(array.data)} bytes")
    return np.frombuffer(array.data, dtype=code)


def _short(data: object, code: str, *, alone: bool) -> Any:  # noqa: ANN401 - either dtype
    if not (isinstance(data, bytes) and len(data) <= _SHORT and len(data) % 4 == 0 and alone):
        raise malformed("a short array that is none, or not the only one")
    return np.frombuffer(data, dtype=code)


def _sized(vector: Any, size: int) -> Any:  # noqa: ANN401 - the same type comes back
    if vector.shape != (size,):
        raise malformed(f"a vector of {vector.size} values, expected {size}")
    return vector


def _invitation(terms: ConfigRecord) -> Invitation:
    return Invitation(
        attempt=number_in(terms, "attempt"), adverts=several_bytes_in(terms, "adverts")
    )


def _scaling(terms: ConfigRecord) -> Scaling:
    return Scaling(reals_in(terms, "centers"), reals_in(terms, "scales"))


def _counted(terms: ConfigRecord) -> dict[str, int]:
    names, rounds = texts_in(terms, "counted_of"), list_in(terms, "counted")
    if not all(type(number) is int and number > 0 for number in rounds):
        raise malformed("no rounds 'counted'")
    if len(names) != len(rounds) or len(set(names)) != len(names):
        raise malformed("not one round for each name")
    return dict(zip(names, rounds, strict=True))


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _part(terms: ConfigRecord, key: str) -> Part:
    for part in get_args(Part):
        if terms.get(key) == part:
            return part  # type: ignore[no-any-return]
    raise malformed(f"no part {key!r}")
