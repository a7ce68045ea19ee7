"""Messages survive the wire; records that are no message give one typed error, nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward.study.errors import FederationError
from fedward.study.messages import (
    Contribution,
    EvaluateRequest,
    Part,
    Refusal,
    TrainRequest,
    Vector,
)
from fedward.study.wire import (
    pack_answer,
    pack_request,
    unpack_answer,
    unpack_evaluate_request,
    unpack_train_request,
)

Unpack = Callable[[RecordDict], object]

# Every bit pattern of a float32, so that NaNs with a payload and negative zeros are among them.
vectors = hnp.arrays(np.uint32, st.integers(0, 40)).map(lambda bits: bits.view(np.float32))
anything = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
texts = anything.filter(str.isprintable)
parts = st.sampled_from(["train", "validation", "test"])


def same_bits(one: Vector, other: Vector) -> bool:
    return one.dtype == other.dtype == np.float32 and one.tobytes() == other.tobytes()


def over_the_wire(records: RecordDict) -> RecordDict:
    """The same records, each made of bytes and back as Flower does it."""
    carried: dict[str, Any] = {}
    for name, record in records.items():
        if isinstance(record, ConfigRecord):
            carried[name] = ConfigRecord.inflate(record.deflate())
        elif isinstance(record, ArrayRecord):
            carried[name] = ArrayRecord(
                {
                    k: Array(a.dtype, tuple(a.shape), a.stype, bytes(a.data))
                    for k, a in record.items()
                }
            )
    return RecordDict(carried)


# --- Round trips ----------------------------------------------------------------------------------


@given(texts, texts, st.integers(0, 2**31), vectors, st.none() | parts)
def test_a_train_request_survives_the_wire(
    study: str, run: str, number: int, model: Vector, monitor: Part | None
) -> None:
    request = TrainRequest(study=study, run=run, round=number, model=model, monitor=monitor)

    again = unpack_train_request(over_the_wire(pack_request(request)))

    assert (again.study, again.run, again.round, again.monitor) == (study, run, number, monitor)
    assert same_bits(again.model, model)


COUNTED = TrainRequest("study", "run", 3, np.zeros(2, np.float32), counted={"a": 1, "ä b": 2})


def test_which_rounds_counted_survives_the_wire() -> None:
    assert unpack_train_request(over_the_wire(pack_request(COUNTED))).counted == COUNTED.counted


@pytest.mark.parametrize(
    "change",
    [
        {"counted": [1]},
        {"counted": [1, 0]},
        {"counted": [1, -2]},
        {"counted": [1.0, 2.0]},
        {"counted_of": ["a", "a"]},
        {"counted_of": "ab"},
    ],
)
def test_which_rounds_counted_is_one_round_for_each_name(change: dict[str, Any]) -> None:
    records = pack_request(COUNTED)
    for key, value in change.items():
        records.config_records["terms"][key] = value
    with pytest.raises(FederationError):
        unpack_train_request(records)


@given(texts, texts, st.integers(0, 2**31), vectors, parts)
def test_an_evaluate_request_survives_the_wire(
    study: str, run: str, number: int, model: Vector, part: Part
) -> None:
    request = EvaluateRequest(study=study, run=run, round=number, model=model, part=part)

    again = unpack_evaluate_request(over_the_wire(pack_request(request)))

    assert (again.study, again.run, again.round, again.part) == (study, run, number, part)
    assert same_bits(again.model, model)


@given(texts, vectors)
def test_a_contribution_survives_the_wire(hospital: str, vector: Vector) -> None:
    records = pack_answer(Contribution(hospital=hospital, vector=vector))

    again = unpack_answer(over_the_wire(records), size=len(vector))

    assert isinstance(again, Contribution)
    assert again.hospital == hospital
    assert same_bits(again.vector, vector)


@given(texts, texts, texts, texts)
def test_a_refusal_survives_the_wire_on_one_line(
    hospital: str, error: str, what: str, todo: str
) -> None:
    refusal = Refusal(hospital=hospital, error=error, what=what, todo=todo)

    again = unpack_answer(over_the_wire(pack_answer(refusal)), size=3)

    one_line = {key: " ".join(text.split()) for key, text in vars(refusal).items()}
    assert again == Refusal(**one_line)


@given(anything)
def test_whatever_a_refusal_quotes_it_arrives_as_a_refusal_that_can_be_printed(what: str) -> None:
    """An error may quote a file's bytes; a refusal that cannot be read would stop the server."""
    refusal = Refusal(hospital="north", error="DataError", what=what, todo="")

    again = unpack_answer(over_the_wire(pack_answer(refusal)), size=3)

    assert isinstance(again, Refusal)
    assert again.what.isprintable()


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", "a\x00b", "\u202egnp.exe"])
def test_a_text_that_cannot_be_printed_is_refused(text: str) -> None:
    for terms in ({**TRAIN_TERMS, "run": text}, {**TRAIN_TERMS, "study": text}):
        with pytest.raises(FederationError):
            unpack_train_request(with_terms(terms))
    with pytest.raises(FederationError):
        unpack_answer(with_terms({"hospital": text}), size=3)


def test_a_vector_with_gaps_in_memory_is_sent_whole() -> None:
    vector = np.arange(10, dtype=np.float32)[::2]

    again = unpack_answer(pack_answer(Contribution("a", vector)), size=5)

    assert isinstance(again, Contribution)
    assert again.vector.tolist() == [0, 2, 4, 6, 8]


# --- Malformed records ----------------------------------------------------------------------------

TRAIN_TERMS: dict[str, Any] = {"study": "ab", "run": "r", "round": 1, "version": "0.1.0"}
GOOD = np.array([1, 2, 3], dtype=np.float32)


def saved(array: np.ndarray[Any, Any], *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


LONG = np.resize(GOOD, 40_000)
PACKED = pack_answer(Contribution("a", LONG)).array_records["arrays"]["vector"]
BYTES = GOOD.tobytes()


def claimed(
    data: bytes = BYTES,
    *,
    dtype: str = PACKED.dtype,
    shape: tuple[int, ...] = (3,),
    stype: str = PACKED.stype,
) -> Array:
    """An array that is packed as ours, but for what is given here."""
    return Array(dtype, shape, stype, data)


def numpy_claimed(data: bytes, shape: tuple[int, ...] = (3,)) -> Array:
    """An array that claims to be a float32 vector written as Flower does it by itself."""
    return Array("float32", shape, "numpy.ndarray", data)


def header_only(description: str) -> bytes:
    """A .npy file whose header says this, with three float32 values behind it."""
    text = description.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + GOOD.tobytes()


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
NEGATIVE = "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }"

BAD_ARRAYS = {
    "another dtype": claimed(dtype="float64"),
    "integers": claimed(dtype="int32"),
    "no dtype": claimed(dtype=""),
    "another length": claimed(shape=(2,)),
    "a length of nothing": claimed(shape=(0,)),
    "a negative length": claimed(shape=(-3,)),
    "an enormous length": claimed(shape=(10**12,)),
    "two dimensions": claimed(shape=(3, 1)),
    "no dimension": claimed(shape=()),
    "one byte short": claimed(BYTES[:-1]),
    "one byte more": claimed(BYTES + b"\x00"),
    "one number short": claimed(BYTES[:-4]),
    "one number more": claimed(BYTES + BYTES[:4]),
    "no content": claimed(b""),
    "half the content": claimed(BYTES[:6], shape=(1,)),
    "another way to write arrays": claimed(stype="torch"),
    "no way to write arrays": claimed(stype=""),
    "float64": Array(np.zeros(3)),
    "int32": Array(np.zeros(3, dtype=np.int32)),
    "float16": Array(np.zeros(3, dtype=np.float16)),
    "two dimensions of NumPy": Array(np.zeros((3, 1), dtype=np.float32)),
    "content of another dtype": numpy_claimed(saved(np.zeros(3))),
    "content of the other byte order": numpy_claimed(saved(GOOD.astype(">f4"))),
    "content of another length": numpy_claimed(saved(GOOD), shape=(2,)),
    "content of two dimensions": numpy_claimed(saved(GOOD.reshape(3, 1))),
    "text content": numpy_claimed(saved(np.array(["a", "b", "c"]))),
    "pickled content": numpy_claimed(
        saved(np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    ),
    "noise": numpy_claimed(b"\x00\xff" * 40),
    "cut content": numpy_claimed(saved(GOOD)[:-1]),
    "an archive": numpy_claimed(b"PK\x03\x04" + b"\x00" * 40),
    "a header that promises too much": numpy_claimed(header_only(HUGE), shape=(10**12,)),
    "a header of a negative length": numpy_claimed(header_only(NEGATIVE)),
    "a header that is no header": numpy_claimed(header_only("{'descr': [[[[")),
    "a header that is a sum": numpy_claimed(header_only("1+1")),
}


def test_the_array_that_is_broken_below_is_taken_whole() -> None:
    records = RecordDict(
        {"arrays": ArrayRecord({"vector": claimed()}), "terms": ConfigRecord(TRAIN_TERMS)}
    )

    assert unpack_train_request(records).model.tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_vector_that_is_no_vector_is_refused(name: str) -> None:
    arrays = ArrayRecord({"vector": BAD_ARRAYS[name]})
    records = RecordDict({"arrays": arrays, "terms": ConfigRecord({"hospital": "a"})})
    request = RecordDict({"arrays": arrays, "terms": ConfigRecord({**TRAIN_TERMS, "part": "test"})})

    with pytest.raises(FederationError):
        unpack_answer(records, size=3)
    with pytest.raises(FederationError):
        unpack_train_request(request)
    with pytest.raises(FederationError):
        unpack_evaluate_request(request)


@pytest.mark.parametrize("length", [0, 2, 4, 300])
def test_a_contribution_of_another_length_is_refused(length: int) -> None:
    records = pack_answer(Contribution("a", np.zeros(length, dtype=np.float32)))

    with pytest.raises(FederationError, match="expected 3"):
        unpack_answer(records, size=3)


BAD_TERMS: list[dict[str, Any]] = [
    {"version": 1},
    {"study": None},
    {"study": 3},
    {"study": b"ab"},
    {"study": ["ab"]},
    {"study": "x" * 1_000_000},
    {"run": None},
    {"run": 1.5},
    {"run": "x" * 1_000_000},
    {"round": None},
    {"round": -1},
    {"round": "1"},
    {"round": 1.0},
    {"round": True},
    {"round": [1]},
]


@pytest.mark.parametrize("change", BAD_TERMS, ids=lambda change: str(change)[:24])
@pytest.mark.parametrize("unpack", [unpack_train_request, unpack_evaluate_request])
def test_a_request_with_bad_terms_is_refused(unpack: Unpack, change: dict[str, Any]) -> None:
    terms = {**TRAIN_TERMS, "part": "test", **change}

    with pytest.raises(FederationError):
        unpack(with_terms(terms))


@pytest.mark.parametrize("part", ["val", "", "Train", 1, True, ["train"], b"train"])
def test_an_unknown_part_is_refused(part: Any) -> None:  # noqa: ANN401
    with pytest.raises(FederationError):
        unpack_evaluate_request(with_terms({**TRAIN_TERMS, "part": part}))
    with pytest.raises(FederationError):
        unpack_train_request(with_terms({**TRAIN_TERMS, "monitor": part}))


def test_an_evaluate_request_needs_a_part() -> None:
    with pytest.raises(FederationError):
        unpack_evaluate_request(with_terms(TRAIN_TERMS))


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"hospital": 3},
        {"hospital": "x" * 1_000_000},
        {"hospital": "a", "error": 1, "what": "w", "todo": "t"},
        {"hospital": "a", "error": "DataError", "what": "w"},
        {"hospital": "a", "error": "DataError", "todo": "t"},
        {"hospital": "a", "error": "DataError", "what": "x" * 1_000_000, "todo": "t"},
        {"error": "DataError", "what": "w", "todo": "t"},
    ],
    ids=lambda terms: str(terms)[:40],
)
def test_an_answer_with_bad_terms_is_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(FederationError):
        unpack_answer(with_terms(terms), size=3)


def with_terms(terms: dict[str, Any]) -> RecordDict:
    kept = {key: value for key, value in terms.items() if value is not None}
    return RecordDict({"arrays": ArrayRecord({"vector": Array(GOOD)}), "terms": ConfigRecord(kept)})


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"terms": ConfigRecord({**TRAIN_TERMS, "part": "test", "hospital": "a"})}),
        RecordDict({"arrays": ArrayRecord({"vector": Array(GOOD)})}),
        RecordDict(
            {
                "arrays": ArrayRecord({"other": Array(GOOD)}),
                "terms": ConfigRecord({**TRAIN_TERMS, "part": "test", "hospital": "a"}),
            }
        ),
        RecordDict({"arrays": ArrayRecord({"vector": Array(GOOD)}), "terms": MetricRecord()}),
        RecordDict({"arrays": ConfigRecord(), "terms": ConfigRecord({"hospital": "a"})}),
    ],
    ids=[
        "nothing",
        "no arrays",
        "no terms",
        "another array",
        "terms of numbers",
        "arrays of terms",
    ],
)
def test_records_that_lack_something_are_refused(records: RecordDict) -> None:
    unpacks: list[Unpack] = [
        unpack_train_request,
        unpack_evaluate_request,
        lambda got: unpack_answer(got, size=3),
    ]
    for unpack in unpacks:
        with pytest.raises(FederationError):
            unpack(records)


@given(
    data=st.binary(max_size=24) | st.binary(min_size=12, max_size=12),
    length=st.integers(-1, 6),
    stype=st.sampled_from([PACKED.stype, "numpy.ndarray", "x"]),
)
def test_no_bytes_in_place_of_an_array_make_another_error(
    data: bytes, length: int, stype: str
) -> None:
    arrays = ArrayRecord({"vector": claimed(data, shape=(length,), stype=stype)})
    records = RecordDict({"arrays": arrays, "terms": ConfigRecord(TRAIN_TERMS)})

    try:
        vector = unpack_train_request(records).model
    except FederationError:
        assert stype != PACKED.stype or len(data) != 4 * length
    else:
        assert vector.dtype == np.float32
        assert vector.tobytes() == data
        assert vector.shape == (length,)


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(FederationError) as caught:
        unpack_train_request(RecordDict())

    assert "same version of fedward" in caught.value.todo
    assert json.dumps(caught.value.line())


# --- Short arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "tables"), [(32_768, ["terms"]), (32_769, ["arrays", "terms"])])
def test_a_short_array_is_in_the_table(size: int, tables: list[str]) -> None:
    vector = np.arange(size, dtype=np.float32)

    packed = pack_answer(Contribution("a", vector))

    assert sorted(packed) == tables
    again = unpack_answer(over_the_wire(packed), size=size)
    assert isinstance(again, Contribution)
    assert same_bits(again.vector, vector)


@pytest.mark.parametrize(
    "short", [b"123", "text", 1.0, [1.0], b"\0" * ((128 << 10) + 4)], ids=lambda v: str(v)[:9]
)
def test_a_short_array_that_is_none_is_refused(short: Any) -> None:  # noqa: ANN401
    terms = ConfigRecord({"hospital": "a", "float32": short})

    with pytest.raises(FederationError, match="a short array"):
        unpack_answer(RecordDict({"terms": terms}), size=3)


def test_two_arrays_are_refused() -> None:
    records = pack_answer(Contribution("a", LONG))
    records.config_records["terms"]["float32"] = GOOD.tobytes()

    with pytest.raises(FederationError, match="not the only one"):
        unpack_answer(records, size=3)


def test_a_short_array_of_another_type_is_none() -> None:
    terms = ConfigRecord({"hospital": "a", "uint32": GOOD.tobytes()})

    with pytest.raises(FederationError, match="no vector"):
        unpack_answer(RecordDict({"terms": terms}), size=3)
