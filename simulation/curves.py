"""`curves.png`: how the model got better, round by round."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from fedward.models.tasks.figures import NAMES, SHARES, shown
from fedward.server.events import Metrics, Outcome
from fedward.simulation.result import Result

# Okabe and Ito's colours: told apart by the colour-blind and in print.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#767676"


def draw_curves(outcome: Outcome, result: Result, path: Path) -> None:
    """The foremost metrics and the loss over rounds on the left, what they came to on the right."""
    shares, others = _drawn(outcome.test)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip([*shares, *others], (_BLUE, _ORANGE, _GREY), strict=False):
        rounds, values = _points(outcome.curve, name)
        if values:
            left.plot(
                rounds,
                values,
                color=colour,
                label=NAMES[name],
                marker="." if len(rounds) < 40 else "",
            )
    left.set_xlabel("rounds")
    left.set_title(f"{result.study.name}, {outcome.part} part", fontsize=10)
    if shares:
        left.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    if left.has_data():
        left.legend(frameon=False)
    bars = _bars(result)
    places = range(len(bars))
    compared = shares or others[:1]
    offsets = (-0.2, 0.2) if len(compared) == 2 else (0.0,)
    for offset, name, colour in zip(offsets, compared, (_BLUE, _ORANGE), strict=False):
        heights = [metrics.get(name) or 0.0 for _, metrics in bars]
        at = [p + offset for p in places]
        drawn = right.barh(at, heights, 0.36, color=colour, label=NAMES[name])
        right.bar_label(drawn, fmt="%.3f", padding=2, fontsize=7)
    right.set_yticks(list(places), [name for name, _ in bars])
    right.invert_yaxis()
    if shares:
        right.set_xlim(0, 1.12)
    else:
        right.margins(x=0.15)
    words = ", ".join(NAMES[name] for name in compared)
    right.set_title(f"{words}, test part of all hospitals", fontsize=10)
    aside = path.with_name("curves.tmp.png")
    figure.savefig(aside, dpi=150)
    aside.replace(path)


def _drawn(metrics: Metrics) -> tuple[list[str], list[str]]:
    """Of the metrics that are shown, those between 0 and 1, and the others."""
    names = shown(metrics)
    return [n for n in names if n in SHARES], [n for n in names if n not in SHARES]


def _points(curve: list[Metrics | None], name: str) -> tuple[list[int], list[float]]:
    points = [
        (r, m[name]) for r, m in enumerate(curve) if m is not None and m.get(name) is not None
    ]
    return [r for r, _ in points], [value for _, value in points]


def _bars(result: Result) -> list[tuple[str, dict[str, float | None]]]:
    found = [("federated", result.metrics.federated)]
    if result.metrics.pooled:
        found.append(("pooled", result.metrics.pooled))
    found += [(f"only {name}", metrics) for name, metrics in result.metrics.local.items()]
    return [(name, metrics.model_dump()) for name, metrics in found[:10]]
