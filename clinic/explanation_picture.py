"""An explanation as a picture over the record that it is of.

Orange adds to what is explained, purple takes away from it: a pair that the colour-blind tell
apart, and whose white middle says nothing.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from fedward.clinic.explaining import Explanation
from fedward.clinic.pictures import plain
from fedward.models.inputs import inputs_of
from fedward.study.data import Data
from fedward.study.signal_data import SignalData
from fedward.study.table_data import TableData
from fedward.study.token_data import FIRST, UNKNOWN, SequenceData, TextData

_COLOURS = "PuOr_r"
_MOST_BARS = 24
_MOST_CHANNELS = 16
_TOKENS_A_LINE = 12
_MOST_TOKENS = 480


def picture_of(explanation: Explanation, record: Tensor, data: Data, says: str) -> bytes:
    """A PNG file.

    Args:
        explanation: Of the record.
        record: As the model saw it, shape (1, *input_shape).
        data: The study's, which names features, channels and tokens.
        says: What the model says of the record, for the title.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    values, shown = explanation.values, record[0].numpy()
    kind = inputs_of(data).kind
    if kind in {"image", "volume"}:
        _over_picture(figure, values, shown)
    elif kind == "signal":
        _over_signal(figure, values, shown, data)
    elif kind == "features":
        _bars(figure, values, shown, data)
    else:
        _over_tokens(figure, values, shown, data)
    figure.suptitle(
        f"{plain(says)}\nexplained: {plain(explanation.target)}, by {explanation.method}",
        fontsize=11,
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def _limit(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).max()) or 1.0


def _over_picture(figure: Figure, values: NDArray[np.float64], shown: NDArray[Any]) -> None:
    if values.ndim == 3:  # the slice of a volume that says most
        place = int(np.abs(values).sum(axis=(1, 2)).argmax())
        values, shown = values[place], shown[:, place]
    low, high = float(shown.min()), float(shown.max())
    grey = (shown.mean(axis=0) - low) / ((high - low) or 1.0)
    given, over = figure.subplots(1, 2)
    for axes in (given, over):
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    given.set_title("what the model sees", fontsize=9)
    most = _limit(values)
    strength = np.clip(np.abs(values) / most, 0, 1) * 0.75
    over.imshow(values, cmap=_COLOURS, vmin=-most, vmax=most, alpha=strength)
    over.set_title("what adds to it, and takes away", fontsize=9)
    whole = ScalarMappable(Normalize(-most, most), _COLOURS)  # not as faint as what it explains
    figure.colorbar(whole, ax=over, shrink=0.7)


def _over_signal(
    figure: Figure, values: NDArray[np.float64], shown: NDArray[Any], data: Data
) -> None:
    names = list(data.channels) if isinstance(data, SignalData) else _numbered(len(shown))
    count = min(len(names), len(shown), _MOST_CHANNELS)
    most = _limit(values[:count])
    rows = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for axes, name, line, parts in zip(rows, names, shown, values, strict=False):
        low, high = float(line.min()) - 0.1, float(line.max()) + 0.1
        drawn = axes.imshow(
            parts[None],
            cmap=_COLOURS,
            vmin=-most,
            vmax=most,
            aspect="auto",
            extent=(-0.5, len(line) - 0.5, low, high),
        )
        axes.plot(line, color="black", linewidth=0.8)
        axes.set_ylabel(plain(name), rotation=0, ha="right", fontsize=8)
        axes.set_yticks([])
    rows[-1].set_xlabel("sample")
    figure.colorbar(drawn, ax=list(rows))


def _bars(figure: Figure, values: NDArray[np.float64], shown: NDArray[Any], data: Data) -> None:
    names = input_names(data) if isinstance(data, TableData) else _numbered(len(values))
    order = np.argsort(np.abs(values))[::-1][:_MOST_BARS][::-1]
    most = _limit(values)
    axes = figure.subplots()
    colours = ["#E69F00" if values[place] >= 0 else "#7B5EA7" for place in order]
    axes.barh(np.arange(len(order)), values[order], color=colours, edgecolor="black")
    labels = [plain(f"{names[place]} = {shown[place]:.3g}") for place in order]
    axes.set_yticks(np.arange(len(order)), labels, fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(-1.05 * most, 1.05 * most)
    axes.set_xlabel("takes away  |  adds (values are scaled as the model sees them)")


def input_names(data: TableData) -> list[str]:
    """A name for each input of the model: a column, a category of it, or that it is absent."""
    names: list[str] = []
    for name, feature in data.features.items():
        if feature.categories is not None:
            names += [f"{name}: {category}" for category in feature.categories]
        else:
            names += [name] if feature.absent is None else [name, f"{name} absent"]
    return names


def _over_tokens(
    figure: Figure, values: NDArray[np.float64], shown: NDArray[Any], data: Data
) -> None:
    there = np.flatnonzero(shown)[:_MOST_TOKENS]
    words, most = token_names(shown, data), _limit(values)
    lines = max(1, -(-len(there) // _TOKENS_A_LINE))
    figure.set_size_inches(9, max(2.5, 0.35 * lines + 1.5))
    axes = figure.subplots()
    grid = np.full((lines, _TOKENS_A_LINE), np.nan)
    for number, place in enumerate(there):
        row, column = divmod(number, _TOKENS_A_LINE)
        grid[row, column] = values[place]
        axes.text(
            column, row, plain(words[place][:10]), ha="center", va="center", fontsize=8
        ).set_clip_on(True)
    # Half the colours' range: black letters are read on all of it.
    drawn = axes.imshow(grid, cmap=_COLOURS, vmin=-2 * most, vmax=2 * most, aspect="auto")
    axes.set_axis_off()
    figure.colorbar(
        drawn, ax=axes, boundaries=np.linspace(-most, most, 101), ticks=[-most, 0, most]
    )


def token_names(tokens: NDArray[Any], data: Data) -> list[str]:
    """What each token is: a word or letter of the study, else its number."""
    known: tuple[str, ...] = ()
    if isinstance(data, SequenceData):
        known = data.alphabet
    elif isinstance(data, TextData) and data.vocabulary:
        known = data.vocabulary
    pieces = isinstance(data, TextData) and data.tokenizer == "model"

    def name(token: int) -> str:
        if token == UNKNOWN and not pieces:
            return "?"
        place = token - FIRST
        return known[place] if 0 <= place < len(known) else f"#{token}"

    return [name(int(token)) for token in tokens]


def _numbered(count: int) -> list[str]:
    return [f"{place + 1}" for place in range(count)]
