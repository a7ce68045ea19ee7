"""Texts, and sequences of letters such as DNA: what a model reads as numbers of tokens.

Tokens are numbered: 0 fills up after the end, 1 is whatever the vocabulary lacks, and the
vocabulary's own begin at 2. The vocabulary is in the study, so that it tells nothing of anybody.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label
from fedward.study.statistics import Measured, shares

Length = Annotated[int, Field(ge=1, le=65536)]
FIRST = 2
"""Number of the first token of a vocabulary."""
UNKNOWN = 1
"""Number of whatever a vocabulary lacks."""
_MOST_LETTERS = 32  # of which each has a histogram


class TextData(AnyData):
    """Texts of a language.

    Attributes:
        text: The column that holds the text.
        length: Most tokens of a record; what comes after is cut off.
        vocabulary: Words and word pieces (those that go on begin with `##`), each a token.
        buckets: Instead of a vocabulary, so many tokens, and a hash says which is a word's.
        tokenizer: Instead of both, `model`: the tokenizer of the pretrained model that the study
            names, with the signs that it puts around a text; its numbers plus 1, 0 after the end.
        lower: Whether capital letters count as small ones; a pretrained tokenizer knows itself.
        label: The column of the label, or several.
    """

    kind: Literal["text"]
    text: str = "text"
    length: Length
    vocabulary: Annotated[tuple[str, ...], Field(min_length=1, max_length=200_000)] | None = None
    buckets: Annotated[int, Field(ge=2, le=2**20)] | None = None
    tokenizer: Literal["model"] | None = None
    lower: bool = True
    label: Label = "label"

    @model_validator(mode="after")
    def _one_vocabulary(self) -> TextData:
        if [self.vocabulary, self.buckets, self.tokenizer].count(None) != 2:
            raise ValueError("exactly one of vocabulary, buckets and tokenizer")
        if self.vocabulary is not None and len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("each word of the vocabulary once")
        return self

    @property
    def tokens(self) -> int:
        """Different tokens, with the two that every vocabulary has; not of a pretrained model."""
        return FIRST + (len(self.vocabulary) if self.vocabulary else self.buckets or 0)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it: token numbers, int64."""
        return (self.length,)

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """Share of the length that is filled, of tokens that differ, and of unknown ones."""
        return shares(["length", "variety", *([] if self.tokenizer else ["unknown"])])


class SequenceData(AnyData):
    """Sequences of letters: DNA, RNA, proteins, molecules as SMILES.

    Attributes:
        sequence: The column that holds the sequence; or several, one for each letter.
        alphabet: The letters, each a token; small ones count as capital ones if the alphabet has
            only these. In SMILES a letter may be two characters (`Cl`, `Br`) or a bracket (`[nH]`):
            the longest that fits is taken.
        length: Most letters of a record.
        longer: What to do with more: `refuse` or `cut`.
        label: The column of the label, or several.
    """

    kind: Literal["sequence"]
    sequence: Label = "sequence"
    alphabet: Annotated[tuple[str, ...], Field(min_length=2, max_length=4096)]
    length: Length
    longer: Literal["refuse", "cut"] = "refuse"
    label: Label = "label"

    @model_validator(mode="after")
    def _each_letter_once(self) -> SequenceData:
        if len(set(self.alphabet)) != len(self.alphabet) or "" in self.alphabet:
            raise ValueError("each letter once")
        if not isinstance(self.sequence, str) and not 2 <= len(self.sequence) <= self.length:
            raise ValueError(
                f"2 to {self.length} columns of a letter each, as the length is, or one of all"
            )
        return self

    @property
    def tokens(self) -> int:
        """Different tokens, with the two that every vocabulary has."""
        return FIRST + len(self.alphabet)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it: token numbers, int64."""
        return (self.length,)

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """Share of the length that is filled, of letters that differ, of unknown ones, of each."""
        each = [f"share of {letter}" for letter in self.alphabet]
        letters = each if len(each) <= _MOST_LETTERS else []
        return shares(["length", "variety", "unknown", *letters])
