"""The messages of a secure sum survive the wire; what is none of them gives one typed error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward.study.errors import FederationError
from fedward.study.messages import (
    Advertised,
    AdvertiseQuery,
    Answer,
    Contribution,
    EvaluateRequest,
    Invitation,
    Masked,
    MaskedContribution,
    Part,
    Refusal,
    TrainRequest,
    Unmasked,
    Unmasking,
    UnmaskQuery,
    Vector,
    Words,
)
from fedward.study.wire import (
    pack_answer,
    pack_request,
    unpack_advertise_query,
    unpack_answer,
    unpack_evaluate_request,
    unpack_train_request,
    unpack_unmask_query,
)

Unpack = Callable[[RecordDict], object]

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40).filter(
    str.isprintable
)
packs = st.binary(max_size=80)
numbers = st.integers(0, 2**63 - 1)
names = st.lists(texts, max_size=5, unique=True).map(tuple)
maps = st.dictionaries(texts, packs, max_size=5)
invitations = st.builds(Invitation, numbers, st.lists(packs, max_size=5).map(tuple))
words = hnp.arrays(np.uint32, st.integers(0, 40))
models = words.map(lambda bits: bits.view(np.float32))


def over_the_wire(records: RecordDict) -> RecordDict:
    """The same records, each made of bytes and back."""
    carried: dict[str, Any] = {}
    for name, record in records.items():
        if isinstance(record, ConfigRecord):
            carried[name] = ConfigRecord.inflate(record.deflate())
        elif isinstance(record, ArrayRecord):
            copies = {
                k: Array(a.dtype, tuple(a.shape), a.stype, bytes(a.data)) for k, a in record.items()
            }
            carried[name] = ArrayRecord(copies)
    return RecordDict(carried)


def with_terms(
    terms: Mapping[str, Any],
    vector: Vector | Words | None = None,
    **array: Any,  # noqa: ANN401
) -> RecordDict:
    """Records as the wire has them; a term of None is not there."""
    records = RecordDict({"terms": ConfigRecord({k: v for k, v in terms.items() if v is not None})})
    if vector is not None:
        kind = str(vector.dtype)
        form: dict[str, Any] = {
            "dtype": kind,
            "stype": f"{kind} little-endian",
            "shape": (len(vector),),
            "data": vector.tobytes(),
        }
        records["arrays"] = ArrayRecord({"vector": Array(**{**form, **array})})
    return records


# --- Round trips ----------------------------------------------------------------------------------


@given(texts, texts, texts)
def test_an_advertise_query_survives_the_wire(study: str, run: str, version: str) -> None:
    query = AdvertiseQuery(study, run, version)

    assert unpack_advertise_query(over_the_wire(pack_request(query))) == query


@given(texts, packs)
def test_an_advert_survives_the_wire(hospital: str, advert: bytes) -> None:
    answer = Advertised(hospital, advert)

    assert unpack_answer(over_the_wire(pack_answer(answer))) == answer


@given(models, numbers, st.none() | invitations, st.none() | st.sampled_from(["train", "test"]))
def test_an_invitation_to_train_survives_the_wire(
    model: Vector, number: int, invitation: Invitation | None, monitor: Part | None
) -> None:
    request = TrainRequest("s", "r", number, model, monitor=monitor, invitation=invitation)

    again = unpack_train_request(over_the_wire(pack_request(request)))

    assert (again.round, again.monitor, again.invitation) == (number, monitor, invitation)
    assert again.model.tobytes() == model.tobytes()


@given(models, numbers, st.none() | invitations, st.sampled_from(["train", "validation", "test"]))
def test_an_invitation_to_judge_survives_the_wire(
    model: Vector, number: int, invitation: Invitation | None, part: Part
) -> None:
    request = EvaluateRequest("s", "r", number, model, part, invitation=invitation)

    again = unpack_evaluate_request(over_the_wire(pack_request(request)))

    assert (again.round, again.part, again.invitation) == (number, part, invitation)
    assert again.model.tobytes() == model.tobytes()


@given(texts, words, maps, packs)
def test_a_masked_contribution_survives_the_wire(
    hospital: str, vector: Words, shares: dict[str, bytes], commitment: bytes
) -> None:
    answer = MaskedContribution(hospital, Masked(vector, shares, commitment))

    again = unpack_answer(over_the_wire(pack_answer(answer)), size=len(vector))

    assert isinstance(again, MaskedContribution)
    assert again.hospital == hospital
    assert again.masked.words.dtype == np.uint32
    assert np.array_equal(again.masked.words, vector)
    assert (again.masked.shares, again.masked.commitment) == (shares, commitment)


@given(texts, texts, numbers, invitations, names, maps)
def test_an_unmask_query_survives_the_wire(
    study: str,
    run: str,
    number: int,
    invitation: Invitation,
    survivors: tuple[str, ...],
    shares: dict[str, bytes],
) -> None:
    query = UnmaskQuery(study, run, number, invitation, survivors, shares)

    assert unpack_unmask_query(over_the_wire(pack_request(query))) == query


@given(texts, maps, maps)
def test_help_to_unmask_survives_the_wire(
    hospital: str, shares: dict[str, bytes], seeds: dict[str, bytes]
) -> None:
    answer = Unmasked(hospital, Unmasking(shares, seeds))

    assert unpack_answer(over_the_wire(pack_answer(answer))) == answer


def test_what_nobody_can_read_is_told_apart_from_what_everybody_can() -> None:
    """The same four bytes are one thing as a word and another as a number."""
    bits = np.array([0x3F800000], dtype=np.uint32)
    plain = pack_answer(Contribution("a", bits.view(np.float32)))
    masked = pack_answer(MaskedContribution("a", Masked(bits, {}, b"")))

    read, hidden = (unpack_answer(over_the_wire(records), size=1) for records in (plain, masked))

    assert isinstance(read, Contribution)
    assert read.vector.tolist() == [1.0]
    assert isinstance(hidden, MaskedContribution)
    assert hidden.masked.words.tolist() == [0x3F800000]


def test_words_travel_least_significant_byte_first() -> None:
    records = pack_answer(
        MaskedContribution("a", Masked(np.array([0x04030201], dtype=np.uint32), {}, b""))
    )

    assert records.config_records["terms"]["uint32"] == bytes([1, 2, 3, 4])


# --- Malformed records ----------------------------------------------------------------------------

MODEL = np.array([1, 2, 3], dtype=np.float32)
WORDS = np.array([1, 2, 3], dtype=np.uint32)
ADVERTISE: dict[str, Any] = {"study": "ab", "run": "r", "version": "0.1.0"}
TRAIN: dict[str, Any] = {**ADVERTISE, "round": 1, "attempt": 1, "adverts": [b"x", b"y"]}
UNMASK: dict[str, Any] = {**TRAIN, "survivors": ["a", "b"], "share_of": ["a"], "share": [b"s"]}
MASKED: dict[str, Any] = {
    "hospital": "a",
    "commitment": b"c",
    "share_of": ["a", "b"],
    "share": [b"s", b"t"],
}
UNMASKED: dict[str, Any] = {
    "hospital": "a",
    "share_of": ["a"],
    "share": [b"s"],
    "seed_of": ["b"],
    "seed": [b"t"],
}
ADVERTISED: dict[str, Any] = {"hospital": "a", "advert": b"x"}

NO_TEXT: list[Any] = [None, 3, 1.5, True, b"ab", ["ab"], "two\nlines", "\x1b[31m", "x" * 10_001]
NO_NUMBER: list[Any] = [None, -1, "1", 1.0, True, b"1", [1]]
NO_NUMBER_WHERE_IT_CALLS_FOR_ONE: list[Any] = NO_NUMBER[1:]  # a request without it is a plain one
NO_BYTES: list[Any] = [None, "x", 3, True, [b"x"], bytes(4097)]
NO_LIST_OF_BYTES: list[Any] = [
    *(None, b"x", "xy", 3, ["x", "y"], [1, 2], [True, False], [b"x", bytes(4097)]),
    [b""] * 100_001,
]
NO_NAMES: list[Any] = [
    *(None, "ab", b"ab", 3, [b"a", b"b"], [1, 2], ["a", "b\n"], ["a", "x" * 10_001]),
    [""] * 100_001,
]


def bad(terms: Mapping[str, Any], **faults: list[Any]) -> list[dict[str, Any]]:
    """The terms with each fault in turn."""
    return [{**terms, key: value} for key, values in faults.items() for value in values]


BAD_INVITATIONS = bad(
    TRAIN,
    study=NO_TEXT,
    run=NO_TEXT,
    version=NO_TEXT,
    round=NO_NUMBER,
    attempt=NO_NUMBER_WHERE_IT_CALLS_FOR_ONE,
    adverts=NO_LIST_OF_BYTES,
)
BAD_UNMASK = [
    *bad(UNMASK, study=NO_TEXT, run=NO_TEXT, version=NO_TEXT, round=NO_NUMBER, attempt=NO_NUMBER),
    *bad(UNMASK, adverts=NO_LIST_OF_BYTES, survivors=NO_NAMES, share=NO_LIST_OF_BYTES),
    *bad(UNMASK, share_of=[*NO_NAMES, [], ["a", "b"]]),
    {**UNMASK, "share_of": ["a", "a"], "share": [b"s", b"t"]},
    {**UNMASK, "share": [b"s", b"t"]},
    {**UNMASK, "share": []},
]
BAD_ANSWERS = [
    *bad(ADVERTISED, hospital=NO_TEXT, advert=[v for v in NO_BYTES if v is not None]),
    *bad(UNMASKED, hospital=NO_TEXT, share=NO_LIST_OF_BYTES, share_of=NO_NAMES),
    *bad(UNMASKED, seed=NO_LIST_OF_BYTES, seed_of=[v for v in NO_NAMES if v is not None]),
    {**UNMASKED, "seed_of": ["b", "b"], "seed": [b"t", b"u"]},
    {**UNMASKED, "share_of": ["a", "a"], "share": [b"s", b"t"]},
    {**UNMASKED, "seed_of": []},
    {**UNMASKED, "share_of": []},
    *bad(MASKED, hospital=NO_TEXT, share=NO_LIST_OF_BYTES, share_of=[*NO_NAMES, ["a"], ["a", "a"]]),
    *bad(MASKED, commitment=[v for v in NO_BYTES if v is not None]),
]


def short(value: object) -> str:
    return str(value)[:30]


@pytest.mark.parametrize(
    "terms", bad(ADVERTISE, study=NO_TEXT, run=NO_TEXT, version=NO_TEXT), ids=short
)
def test_an_advertise_query_with_bad_terms_is_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(FederationError):
        unpack_advertise_query(with_terms(terms))


def test_the_terms_that_are_broken_above_and_below_are_taken_whole() -> None:
    unpack_advertise_query(with_terms(ADVERTISE))
    assert unpack_train_request(with_terms(TRAIN, MODEL)).invitation == Invitation(1, (b"x", b"y"))
    judge = with_terms({**TRAIN, "part": "test"}, MODEL)
    assert unpack_evaluate_request(judge).invitation == Invitation(1, (b"x", b"y"))
    unpack_unmask_query(with_terms(UNMASK))
    assert isinstance(unpack_answer(with_terms(ADVERTISED)), Advertised)
    assert isinstance(unpack_answer(with_terms(UNMASKED)), Unmasked)
    assert isinstance(unpack_answer(with_terms(MASKED, WORDS), size=3), MaskedContribution)


def test_requests_with_a_bad_invitation_are_refused() -> None:
    for terms in BAD_INVITATIONS:
        with pytest.raises(FederationError):
            unpack_train_request(with_terms(terms, MODEL))
        with pytest.raises(FederationError):
            unpack_evaluate_request(with_terms({**terms, "part": "test"}, MODEL))


def test_an_unmask_query_with_bad_terms_is_refused() -> None:
    for terms in BAD_UNMASK:
        with pytest.raises(FederationError):
            unpack_unmask_query(with_terms(terms))


def test_an_answer_with_bad_terms_is_refused() -> None:
    for terms in BAD_ANSWERS:
        with pytest.raises(FederationError):
            unpack_answer(with_terms(terms, WORDS), size=3)


@pytest.mark.parametrize(
    "array",
    [
        {"dtype": "int32"},
        {"dtype": "float32"},
        {"dtype": "uint64"},
        {"dtype": ""},
        {"stype": "numpy.ndarray"},
        {"stype": "float32 little-endian"},
        {"stype": "uint32"},
        {"shape": (2,)},
        {"shape": (4,)},
        {"shape": (3, 1)},
        {"shape": ()},
        {"shape": (-3,)},
        {"shape": (10**12,)},
        {"data": WORDS.tobytes()[:-1]},
        {"data": WORDS.tobytes()[:-4]},
        {"data": WORDS.tobytes() + b"\x00"},
        {"data": b""},
    ],
    ids=short,
)
def test_words_that_are_no_words_are_refused(array: dict[str, Any]) -> None:
    with pytest.raises(FederationError):
        unpack_answer(with_terms(MASKED, WORDS, **array), size=3)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_masked_vector_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(FederationError, match=f"expected {size}"):
        unpack_answer(with_terms(MASKED, WORDS), size=size)


def test_numbers_where_words_belong_and_words_where_numbers_belong_are_refused() -> None:
    with pytest.raises(FederationError):
        unpack_answer(with_terms(MASKED, MODEL), size=3)
    with pytest.raises(FederationError):
        unpack_answer(with_terms({"hospital": "a"}, WORDS), size=3)
    with pytest.raises(FederationError):
        unpack_train_request(with_terms(TRAIN, WORDS))


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"terms": ArrayRecord()}),
        RecordDict({"other": ConfigRecord(UNMASK)}),
        with_terms({}),
        with_terms({}, MODEL),
    ],
    ids=["nothing", "terms of arrays", "other terms", "no terms", "a vector alone"],
)
def test_records_that_lack_everything_are_refused(records: RecordDict) -> None:
    unpacks: list[Unpack] = [
        unpack_advertise_query,
        unpack_unmask_query,
        unpack_train_request,
        unpack_evaluate_request,
        unpack_answer,
    ]
    for unpack in unpacks:
        with pytest.raises(FederationError):
            unpack(records)


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(FederationError) as caught:
        unpack_unmask_query(with_terms(bad(UNMASK, survivors=["ab"])[0]))

    assert "survivors" in caught.value.what
    assert "same version of fedward" in caught.value.todo


# --- Anything at all ------------------------------------------------------------------------------

values: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=5),
    st.integers(-3, 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=5),
    st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.binary(max_size=3), max_size=3),
    st.lists(st.integers(-3, 3), max_size=3),
)
keys = st.sampled_from(sorted({*TRAIN, *UNMASK, *MASKED, *UNMASKED, *ADVERTISED, "error", "part"}))


@given(
    st.sampled_from([UNMASK, MASKED, UNMASKED, ADVERTISED, TRAIN]),
    st.dictionaries(keys, values, max_size=4),
    st.sets(keys, max_size=2),
)
def test_whatever_stands_in_the_terms_is_a_message_or_the_one_error(
    terms: dict[str, Any], changed: dict[str, Any], missing: set[str]
) -> None:
    kept = {k: v for k, v in {**terms, **changed}.items() if k not in missing}
    kinds: list[tuple[Unpack, Any]] = [
        (lambda got: unpack_answer(got, size=3), Answer),
        (unpack_advertise_query, AdvertiseQuery),
        (unpack_unmask_query, UnmaskQuery),
        (unpack_train_request, TrainRequest),
        (unpack_evaluate_request, EvaluateRequest),
    ]
    for vector in (None, MODEL, WORDS):
        for unpack, kind in kinds:
            try:
                found = unpack(with_terms(kept, vector))
            except FederationError:
                continue
            assert isinstance(found, kind)
            if isinstance(found, Refusal):
                assert all(text.isprintable() for text in vars(found).values())
