"""From texts to numbers of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.extras import need
from fedward.client.data.records import Fact
from fedward.study.token_data import FIRST, UNKNOWN, TextData

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AT_ONCE = 256  # texts, whose tokens are in memory before they are cut


def tokens_of(texts: pd.Series[str], data: TextData) -> tuple[NDArray[np.int64], list[Fact]]:
    """The numbers of the tokens of n texts, shape (n, length); 0 after the end.

    Words are what BERT calls so (Devlin et al. 2019): parted at spaces and at punctuation, each
    sign a word of its own; small letters without accents where the study says `lower`. With a
    vocabulary a word is the fewest longest pieces from the left, or unknown as a whole. With
    buckets its token follows from its hash (BLAKE2b) alone.

    Raises:
        OptionError: The library is not installed.
    """
    found = np.zeros((len(texts), data.length), dtype=np.int64)
    lengths = np.zeros(len(texts), dtype=np.int64)
    for place, numbers in enumerate(_numbers(list(texts), data)):
        lengths[place] = len(numbers)
        found[place, : len(numbers)] = numbers[: data.length]
    return found, facts_of_tokens(lengths, data.length)


def facts_of_tokens(lengths: NDArray[np.int64], most: int) -> list[Fact]:
    """What the hospital's staff is told of texts.

    Args:
        lengths: Tokens of each text, shape (n,).
        most: That the study takes.
    """
    count = len(lengths)
    if not count:
        return []
    cut = int((lengths > most).sum())
    return [
        Fact("tokens", f"{np.median(lengths):.0f} in the middle text, {lengths.max()} at most"),
        Fact("cut", f"{cut} of {count} texts ({cut / count:.0%}) after {most}"),
    ]


def _numbers(texts: Sequence[str], data: TextData) -> Iterator[Sequence[int]]:
    words = _words(data)
    if data.buckets is not None:
        known: dict[str, int] = {}
        for text in texts:
            parted = words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(text))
            yield [_bucket(word, data.buckets, known) for word, _ in parted]
        return
    for start in range(0, len(texts), _AT_ONCE):
        several = words.encode_batch_fast(texts[start : start + _AT_ONCE], add_special_tokens=False)
        for encoding in several:
            yield encoding.ids


def _bucket(word: str, buckets: int, known: dict[str, int]) -> int:
    """Token of a word: 2 and the hash modulo the buckets, the same on every machine."""
    if word not in known:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        known[word] = FIRST + int.from_bytes(digest, "little") % buckets
    return known[word]


def _words(data: TextData) -> Tokenizer:
    """Nothing is loaded from anywhere: pieces are the study's."""
    library = need("tokenizers", extra="text")
    pieces = data.vocabulary or ()
    unknown = _unused("[UNK]", pieces)
    numbers = {piece: place + FIRST for place, piece in enumerate(pieces)}
    words: Tokenizer = library.Tokenizer(
        library.models.WordPiece({**numbers, unknown: UNKNOWN}, unk_token=unknown)
    )
    words.normalizer = library.normalizers.BertNormalizer(
        lowercase=data.lower, strip_accents=data.lower
    )
    words.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return words


def _unused(name: str, pieces: Sequence[str]) -> str:
    """A name for the unknown that is no piece of the study's."""
    taken = set(pieces)
    while name in taken:
        name += "]"
    return name
