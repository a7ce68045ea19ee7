"""Pictures of a report: told apart by colour, and by line and mark where there is no colour.

Every picture is one SVG that names nothing outside of it and repeats to the byte. Its letters stay
letters: whoever reads the page has fonts for every script, which matplotlib has not.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple
from warnings import catch_warnings, filterwarnings

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedward.clinic.curves import Curve, Group, Numbers

# Okabe and Ito 2008; yellow is left out, which paper does not show.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#767676"
_SPARSE = 0.12  # of the axes' diagonal between two marks
_KINDS = ("federated", "pooled", "personal")


class Picture(NamedTuple):
    """One picture of a page.

    Attributes:
        title: Above it.
        uri: The SVG itself, as a data URI.
        alt: The same in words, for whoever does not see it.
        caption: Below it; how it is to be read.
    """

    title: str
    uri: str
    alt: str
    caption: str


class Line(NamedTuple):
    """A curve and what it is called.

    Attributes:
        name: In the legend.
        curve: Its points.
        faint: One of many that are there for comparison.
    """

    name: str
    curve: Curve
    faint: bool = False


def uri_of(figure: Figure) -> str:
    """A figure as the data URI of an SVG that names nothing outside of it."""
    file = io.BytesIO()
    absent = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": "fedward", "svg.fonttype": "none"}), catch_warnings():
        filterwarnings("ignore", message="Glyph .* missing from font")  # the page's reader has it
        figure.savefig(file, format="svg", metadata=absent)
    text = file.getvalue()
    whole = text[text.index(b"<svg") :]  # without the document type, which names an address
    return "data:image/svg+xml;base64," + base64.b64encode(whole).decode()


def plain(text: str) -> str:
    """Somebody's text as it stands: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def learning_curves(shares: Sequence[Line], losses: Sequence[Line]) -> Figure:
    """Metrics between 0 and 1 on the left, the others on the right."""
    groups = [lines for lines in (shares, losses) if lines]
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    for axes, lines in zip(_axes(figure, len(groups)), groups, strict=True):
        _draw(axes, lines, marked=len(lines[0].curve.x) <= 40)
        axes.set_xlabel("rounds")
        if lines is shares:
            axes.set_ylim(0, 1.02)
        _finish(axes)
    return figure


def roc(lines: Sequence[Line], points: Sequence[tuple[float, float]], at: str) -> Figure:
    """Sensitivity over false positive rate, with the operating points and what they are called."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    _draw(axes, lines)
    _mark(axes, points, at)
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    _finish(axes)
    return figure


def precision_recall(
    lines: Sequence[Line],
    points: Sequence[tuple[float, float]],
    at: str,
    prevalence: float | None,
) -> Figure:
    """Precision over recall, as `roc`; the dotted line is what guessing comes to."""
    figure, axes = _square()
    if prevalence is not None:
        axes.axhline(prevalence, color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    _draw(axes, lines, steps=True)
    _mark(axes, points, at)
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision")
    _finish(axes)
    return figure


def reliability(lines: Sequence[Line]) -> Figure:
    """Share of positives over the mean probability that the model gave."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    _draw(axes, lines, marked=True)
    axes.set_xlabel("mean probability given")
    axes.set_ylabel("share that has it")
    _finish(axes)
    return figure


def survival(groups: Sequence[Group]) -> Figure:
    """Share without the event over time, by groups of risk."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    lines = [Line(f"{g.name} ({g.records:.0f})", g.survival) for g in groups]
    _draw(axes, lines, steps=True, after=True)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time")
    axes.set_ylabel("share without the event")
    _finish(axes)
    return figure


def compared(name: str, values: Mapping[str, float], *, share: bool) -> Figure:
    """One metric of several models, a dot each; each kind of model has a mark of its own."""
    figure = Figure(figsize=(6, 0.8 + 0.28 * len(values)), layout="constrained")
    axes = figure.subplots()
    for place, (model, value) in enumerate(values.items()):
        kind = _KINDS.index(model) if model in _KINDS else len(_KINDS)
        axes.plot(value, place, marker=MARKS[kind], color=COLOURS[kind], markersize=7)
        axes.annotate(f"{value:.3f}", (value, place), (8, -3), textcoords="offset points", size=8)
    axes.set_yticks(range(len(values)), [_short(model) for model in values])
    axes.invert_yaxis()
    axes.margins(y=0.1)
    if share:
        axes.set_xlim(0, 1.12)
    else:
        axes.margins(x=0.2)
    axes.set_xlabel(_short(name))
    axes.grid(axis="x", alpha=0.3)
    return figure


def confusion(counts: Numbers, names: Sequence[str]) -> Figure:
    """How many of each class were called what; the darker, the larger the share of its row."""
    size = len(names)
    side = min(7.5, 2.0 + 0.55 * size)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25)
    for row, column in np.ndindex(size, size):
        colour = "white" if shares[row, column] > 0.75 else "black"
        text = f"{counts[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, size=9)
    labels = [_short(name) for name in names]
    axes.set_xticks(range(size), labels, rotation=45 if size > 2 else 0)
    axes.set_yticks(range(size), labels)
    axes.set_xlabel("called")
    axes.set_ylabel("is")
    return figure


def _draw(
    axes: Axes,
    lines: Sequence[Line],
    *,
    marked: bool = False,
    steps: bool = False,
    after: bool = False,
) -> None:
    style = ("steps-post" if after else "steps-pre") if steps else "default"
    # On paper there is no colour: no two lines may have the same dash and the same mark.
    marks = cycle(MARKS)
    sparse = ("", *MARKS)
    clear = 0
    said = False
    for line in lines:
        if line.faint:
            label = "" if said else _short(line.name)
            said = True
            axes.plot(
                *line.curve, color=_GREY, linewidth=0.7, label=label, drawstyle=style, zorder=1.5
            )
            continue
        axes.plot(
            *line.curve,
            color=COLOURS[clear % len(COLOURS)],
            linestyle=DASHES[clear % len(DASHES)],
            linewidth=1.6,
            marker=next(marks) if marked else sparse[clear // len(DASHES) % len(sparse)],
            markevery=None if marked else _SPARSE,
            markersize=5,
            label=_short(line.name),
            drawstyle=style,
        )
        clear += 1


def _mark(axes: Axes, points: Sequence[tuple[float, float]], at: str) -> None:
    if points:
        axes.plot(
            *np.array(points).T, linestyle="", marker="o", markersize=9, markerfacecolor="white",
            markeredgecolor="black", markeredgewidth=1.6, label=_short(at), zorder=4,
        )  # fmt: skip


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    return figure, axes


def _axes(figure: Figure, count: int) -> list[Axes]:
    found = figure.subplots(1, max(count, 1), squeeze=False)
    return list(found.flat)[:count]


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _short(text: str) -> str:
    """The same, cut where it is long."""
    return plain(text if len(text) <= 40 else f"{text[:39]}…")
