"""Letters of DNA, proteins and molecules, from every file that has them."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.data.faults import STRICT
from fedward.client.data.sequences import tokens_of
from fedward.study.errors import DataError
from fedward.study.token_data import SequenceData
from tests.client.data.conftest import DNA, Ward

CSV: dict[str, Any] = {"format": "csv", "path": "t.csv", "patient": "record"}
FASTA: dict[str, Any] = {
    "format": "fasta",
    "path": "s.fasta",
    "labels": "labels.csv",
    "patient": "who",
    "columns_are": {"dna": "sequence"},
}
LABELS = "file,ill,who\none,0,a\ntwo,1,b\nthree,1,a\n"
GOOD = ">one first of all\nACGT\nacgt\n\n>two\nNRYK\n>three\r\nT-A*\n"
SMILES = ("C", "c", "N", "n", "O", "(", ")", "1", "=", "Cl", "Br", "[nH]", "[O-]")


def of(texts: list[str], **changes: object) -> list[list[int]]:
    data = SequenceData.model_validate({**DNA, **changes})
    found: list[list[int]] = tokens_of([pd.Series(texts, dtype=str)], data, STRICT, where="t")[
        0
    ].tolist()
    return found


def test_fasta_and_its_table_of_labels(ward: Ward) -> None:
    ward.write("s.fasta", GOOD)
    ward.write("labels.csv", LABELS)

    raw = ward.read(FASTA, {"data": DNA})

    assert raw.whole.dtype == np.int64
    assert raw.whole.tolist() == [
        [2, 3, 4, 5, 2, 3, 4, 5],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [5, 1, 2, 1, 0, 0, 0, 0],
    ]
    assert raw.whole_labels.tolist() == [0, 1, 1]
    assert raw.names.tolist() == ["a", "b", "a"]
    ward.write("s.fa.gz", gzip.compress(GOOD.encode()))
    packed = ward.read({**FASTA, "path": "s.fa.gz"}, {"data": DNA})
    assert packed.whole.tolist() == raw.whole.tolist()


@pytest.mark.parametrize(
    ("fasta", "says"),
    [
        ("ACGT\n", "line 1: letters before the first name"),
        (">one\nAC GT\n", "line 2: a sign that is no letter"),
        (">one\nAC1\n", "line 2"),
        (">one\nA\n>one\nC\n", "line 3: a sequence without a name of its own"),
        (">\nA\n", "line 1: a sequence without a name"),
        (">one\n>two\nA\n", "row 1, column 'sequence': the value is missing"),
        (">one\nACGTACGTA\n", "row 1: the sequence has 9 letters, more than 8"),
        (">four\nA\n", "row 1, column 'file': the value is not in labels.csv"),
        (b">one\n\xff\n", "no UTF-8"),
    ],
)
def test_bad_fasta_is_named(fasta: str | bytes, says: str, ward: Ward) -> None:
    ward.write("s.fasta", fasta)
    ward.write("labels.csv", LABELS)

    with pytest.raises(DataError, match=says):
        ward.read(FASTA, {"data": DNA})


def test_longer_sequences_are_cut_where_the_study_says_so(ward: Ward) -> None:
    ward.write("t.csv", "dna,ill\nACGTACGTAAAA,0\nA,1\n")

    raw = ward.read(CSV, {"data": {**DNA, "longer": "cut"}})

    assert raw.whole[0].tolist() == [2, 3, 4, 5, 2, 3, 4, 5]
    assert ("cut", "1 of 2 sequences, after 8 letters") in raw.facts


def test_a_column_may_hold_one_letter(ward: Ward) -> None:
    ward.write("t.csv", "p1,p2,p3,ill\nA,c ,G,0\nN,T,A,1\n")

    raw = ward.read(CSV, {"data": {**DNA, "sequence": ["p1", "p2", "p3"]}})

    assert raw.whole[:, :4].tolist() == [[2, 3, 4, 0], [1, 5, 2, 0]]


@pytest.mark.parametrize(
    ("molecule", "tokens"),
    [
        ("CCl", [2, 11]),
        ("CBr", [2, 12]),
        ("c1[nH]c1", [3, 9, 13, 3, 9]),
        ("[Na+]C", [1, 2]),
        ("[O-]C[", [14, 2, 1]),
        ("C/C", [2, 1, 2]),
        ("CL", [2, 1]),
    ],
)
def test_molecules_are_parted_at_the_longest_letters(molecule: str, tokens: list[int]) -> None:
    row = of([molecule], alphabet=SMILES)[0]

    assert row == tokens + [0] * (8 - len(tokens))


def test_small_letters_count_as_capital_only_where_the_alphabet_has_no_small_ones() -> None:
    assert of(["aN"])[0][:2] == [2, 1]
    assert of(["aA"], alphabet=("A", "a"))[0][:2] == [3, 2]


@given(st.lists(st.text(alphabet="ACGTacgtN[]l", max_size=8), min_size=1))
def test_letters_of_one_sign_mean_the_same_in_both_ways_of_parting(texts: list[str]) -> None:
    longer = ("A", "C", "G", "T", "QQ")

    fast, slow = of(texts), of(texts, alphabet=longer)

    for text, one, other in zip(texts, fast, slow, strict=True):
        if "[" not in text:  # a bracket is one letter only where letters may be long
            assert one == other


def test_hostile_molecules_take_no_more_than_linear_time() -> None:
    text = "[a" * 200_000 + "[" * 200_000

    assert of([text], alphabet=SMILES, length=3, longer="cut") == [[1, 1, 1]]
