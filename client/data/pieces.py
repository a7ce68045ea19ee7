"""From texts to the numbers of a pretrained model's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.extras import need
from fedward.client.data.records import Fact
from fedward.client.data.texts import facts_of_tokens
from fedward.models.pretrained import TOKENIZER, config_of, find_pretrained, pretrained_by
from fedward.study.errors import DataError, StudyError
from fedward.study.study import Study
from fedward.study.token_data import TextData

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AT_ONCE = 256  # texts, whose tokens are in memory before they are cut


def pieces_of(
    texts: pd.Series[str], study: Study, data: TextData, models: Path | None
) -> tuple[NDArray[np.int64], list[Fact]]:
    """The numbers of the tokens of n texts plus 1, shape (n, length); 0 after the end.

    A text that is too long loses its end, and keeps the signs that the tokenizer puts around texts.

    Args:
        texts: Of the records.
        study: Names the model.
        data: The study's, for its length.
        models: The hospital's folder of pretrained models.

    Raises:
        OptionError: No folder is named, or the library is not installed.
        DataError: The model or its tokenizer is not there, or cannot be read.
        StudyError: The study names no pretrained model, or leaves no room for a word.
    """
    tokenizer = _tokenizer(find_pretrained(models, pretrained_by(study)))
    signs = tokenizer.num_special_tokens_to_add(is_pair=False)
    if data.length <= signs:
        raise StudyError(
            "data.length", given=str(data.length), allowed=f"more than the {signs} signs of a text"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(data.length)
    found = np.zeros((len(texts), data.length), dtype=np.int64)
    lengths = np.zeros(len(texts), dtype=np.int64)
    given = list(texts)
    for start in range(0, len(given), _AT_ONCE):
        several = tokenizer.encode_batch(given[start : start + _AT_ONCE])
        for place, encoding in enumerate(several, start=start):
            numbers = np.asarray(encoding.ids, dtype=np.int64)
            found[place, : len(numbers)] = numbers + 1
            over = sum(len(more.ids) - signs for more in encoding.overflowing)
            lengths[place] = len(numbers) + over
    return found, facts_of_tokens(lengths, data.length)


def _tokenizer(folder: Path) -> Tokenizer:
    library = need("tokenizers", extra="huggingface")
    path = folder / TOKENIZER
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", todo="copy it anew", where=str(path)) from None
    try:
        tokenizer: Tokenizer = library.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"is no tokenizer ({' '.join(str(error).split())[:200]})",
            todo="copy the model anew",
            where=str(path),
        ) from None
    known = config_of(folder).get("vocab_size")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if not isinstance(known, int) or largest >= known:
        raise DataError(
            f"numbers tokens up to {largest}, and the model knows {known}",
            todo="take a folder whose tokenizer.json and model belong together",
            where=str(path),
        )
    return tokenizer
