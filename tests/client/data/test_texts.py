"""Words and pieces of words: numbers that the study alone decides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.data.texts import tokens_of
from fedward.study.token_data import TextData
from tests.client.data.conftest import TEXT, Ward


def data(**changes: object) -> TextData:
    return TextData.model_validate({**TEXT, **changes})


def numbers(texts: Sequence[str], **changes: object) -> list[list[int]]:
    found: list[list[int]] = tokens_of(pd.Series(texts, dtype=str), data(**changes))[0].tolist()
    return found


PIECES = ("un", "##aff", "##able", "cafe", "!", "a")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("unaffable", [2, 3, 4]),
        ("un aff able", [2, 1, 1]),
        ("unaffabl", [1]),  # a word that cannot be put together is unknown as a whole
        ("Café!", [5, 6]),
        ("CAFE\u0301 !", [5, 6]),
        ("a!a", [7, 6, 7]),
        ("[UNK] [PAD]", [1] * 6),
        ("a a a a a a a a", [7] * 6),
        ("  \t\n", []),
    ],
)
def test_pieces_are_the_longest_from_the_left(text: str, tokens: list[int]) -> None:
    assert numbers([text], vocabulary=PIECES) == [tokens + [0] * (6 - len(tokens))]


def test_capitals_and_accents_count_where_the_study_says_so() -> None:
    cased = {"vocabulary": ("cafe", "Café"), "lower": False}

    assert [row[0] for row in numbers(["cafe", "Cafe", "Café"], **cased)] == [2, 1, 3]


def test_pieces_may_have_the_names_that_others_reserve() -> None:
    assert numbers(["unk x"], vocabulary=("[UNK]", "[UNK]]", "unk"))[0][:2] == [4, 1]


def test_buckets_follow_from_the_words_hash_alone() -> None:
    def token(word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        return 2 + int.from_bytes(digest, "little") % 1000

    rows = numbers(["Heart, heart", "big HEART"], buckets=1000)

    assert rows[0][:3] == [token("heart"), token(","), token("heart")]
    assert rows[1][:2] == [token("big"), token("heart")]
    assert token("heart") == 316  # by `printf heart | b2sum -l 64`: the same everywhere, for good


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
def test_every_number_is_a_token_and_padding_comes_last(texts: list[str]) -> None:
    for changes in ({"vocabulary": PIECES}, {"buckets": 7}):
        for row in numbers(texts, **changes):
            assert all(0 <= number < data(**changes).tokens for number in row)
            assert 0 not in row[: sum(number != 0 for number in row)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_a_text_means_the_same_alone_and_among_others(texts: list[str]) -> None:
    alone = [numbers([text], vocabulary=PIECES)[0] for text in texts]

    assert numbers(texts, vocabulary=PIECES) == alone


def test_the_check_tells_lengths_cuts_and_what_is_unknown(ward: Ward) -> None:
    notes = ["a a a a a a a a a", *["a un"] * 20, "zzz"]
    ward.write(
        "t.csv", "note,ill\n" + "".join(f'"{note}",{n % 2}\n' for n, note in enumerate(notes))
    )

    found = ward.check(
        {"format": "csv", "path": "t.csv", "patient": "record"},
        {"data": {**TEXT, "vocabulary": PIECES}, "model": {"name": "bag_of_tokens"}},
    )

    told = dict(found.facts)
    assert found.problems == []
    assert told["tokens"] == "2 in the middle text, 9 at most"
    assert told["cut"] == "1 of 22 texts (5%) after 6"
    assert told["lengths"] == "2 tokens in the middle, 6 at most"
    assert told["unknown"] == "2.13% of all tokens; most in record 22: 100%"
    assert "have the inputs of a training record" in told["look at"]
