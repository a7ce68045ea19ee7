"""What a network is built for: the kind and shape of one record."""

from __future__ import annotations

from typing import Literal, NamedTuple

from fedward.study.data import Data
from fedward.study.errors import StudyError
from fedward.study.image_data import ImageData
from fedward.study.series_data import SeriesData
from fedward.study.signal_data import SignalData
from fedward.study.table_data import TableData
from fedward.study.token_data import SequenceData, TextData

Kind = Literal["features", "image", "volume", "signal", "tokens", "pieces"]


class Inputs(NamedTuple):
    """One record, as a network sees it.

    Attributes:
        kind: `features` (numbers), `image` (channels, height, width), `volume` (channels, depth,
            height, width), `signal` (channels, time), `tokens` (their numbers in a row) or `pieces`
            (a pretrained model's own tokens in a row).
        shape: Of one record.
        tokens: Different tokens, 0 for none of them; 0 where a record has no tokens.
        padded: Whether a signal's last channel says how long it lasts: 1, and 0 after its end.
    """

    kind: Kind
    shape: tuple[int, ...]
    tokens: int = 0
    padded: bool = False


EXAMPLES: dict[Kind, Inputs] = {
    "features": Inputs("features", (20,)),
    "image": Inputs("image", (1, 64, 64)),
    "volume": Inputs("volume", (1, 32, 32, 32)),
    "signal": Inputs("signal", (2, 256)),
    "tokens": Inputs("tokens", (128,), tokens=1000),
    "pieces": Inputs("pieces", (128,)),
}
"""A usual record of each kind, to tell how large a network is."""


def inputs_of(data: Data) -> Inputs:
    """What records a study has."""
    match data:
        case TableData():
            return Inputs("features", data.input_shape)
        case ImageData():
            return Inputs("image" if len(data.shape) == 3 else "volume", data.input_shape)
        case SignalData():
            return Inputs("signal", data.input_shape, padded=data.shorter == "pad")
        case SeriesData():
            return Inputs("signal", data.input_shape)
        case TextData(tokenizer="model"):
            return Inputs("pieces", data.input_shape)
        case TextData() | SequenceData():
            return Inputs("tokens", data.input_shape, tokens=data.tokens)


def refuse_small(inputs: Inputs, least: int) -> None:
    """Accept images and volumes whose every side is long enough, by returning.

    Raises:
        StudyError: One is not: nothing would be left of it at the end of the network.
    """
    if min(inputs.shape[1:]) < least:
        raise StudyError(
            "data.shape",
            given=str(list(inputs.shape)),
            allowed=f"sides of at least {least} pixels for this model",
        )
