"""Framing: one list of fields, one string of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.framing import framed, unframed

FIELDS = st.lists(st.binary(max_size=9), max_size=5)


def test_a_known_answer() -> None:
    assert framed("é", b"", b"ab") == b"\0\0\0\2\xc3\xa9\0\0\0\0\0\0\0\2ab"
    assert framed() == b""


@given(FIELDS)
def test_a_round_trip(fields: list[bytes]) -> None:
    assert unframed(framed(*fields)) == fields


@given(FIELDS, FIELDS)
def test_other_fields_are_other_bytes(one: list[bytes], other: list[bytes]) -> None:
    assert (framed(*one) == framed(*other)) == (one == other)


def test_bytes_cannot_move_from_field_to_field() -> None:
    assert len({framed("ab", "c"), framed("a", "bc"), framed("abc"), framed("abc", "")}) == 4


@given(st.binary(max_size=30))
def test_what_is_read_is_written_the_same(message: bytes) -> None:
    try:
        fields = unframed(message)
    except ValueError:
        return
    assert framed(*fields) == message


def test_every_way_of_cutting_is_noticed() -> None:
    whole = framed(b"abc", b"de")

    for size in range(len(whole)):
        if size not in (0, len(framed(b"abc"))):
            with pytest.raises(ValueError, match="ends inside"):
                unframed(whole[:size])


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\0\0\0\2"])
def test_a_length_beyond_the_end_is_refused(length: bytes) -> None:
    with pytest.raises(ValueError, match="ends inside"):
        unframed(length + b"a")
