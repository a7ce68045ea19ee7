"""`curves.png`: how the model got better, round by round."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from fedward.server.events import Metrics, Outcome
from fedward.simulation.result import Result

# Okabe and Ito's colours: told apart by the colour-blind and in print.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#767676"


def draw_curves(outcome: Outcome, result: Result, path: Path) -> None:
    """Accuracy, AUC and loss over rounds on the left; the final comparison on the right."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in (("auc", _BLUE), ("accuracy", _ORANGE), ("loss", _GREY)):
        rounds, values = _points(outcome.curve, name)
        if values:
            left.plot(
                rounds, values, color=colour, label=name, marker="." if len(rounds) < 40 else ""
            )
    left.set_xlabel("rounds")
    left.set_title(f"{result.study.name}, {outcome.part} part", fontsize=10)
    left.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    if left.has_data():
        left.legend(frameon=False)
    bars = _bars(result)
    places = range(len(bars))
    for offset, name, colour in ((-0.2, "auc", _BLUE), (0.2, "accuracy", _ORANGE)):
        heights = [metrics.get(name) or 0.0 for _, metrics in bars]
        drawn = right.barh([p + offset for p in places], heights, 0.36, color=colour, label=name)
        right.bar_label(drawn, fmt="%.3f", padding=2, fontsize=7)
    right.set_yticks(list(places), [name for name, _ in bars])
    right.invert_yaxis()
    right.set_xlim(0, 1.12)
    right.set_title("test part of all hospitals", fontsize=10)
    aside = path.with_name("curves.tmp.png")
    figure.savefig(aside, dpi=150)
    aside.replace(path)


def _points(curve: list[Metrics | None], name: str) -> tuple[list[int], list[float]]:
    points = [(r, m[name]) for r, m in enumerate(curve) if m is not None and m[name] is not None]
    return [r for r, _ in points], [value for _, value in points]


def _bars(result: Result) -> list[tuple[str, dict[str, float | None]]]:
    found = [("federated", result.metrics.federated)]
    if result.metrics.pooled:
        found.append(("pooled", result.metrics.pooled))
    found += [(f"only {name}", metrics) for name, metrics in result.metrics.local.items()]
    return [(name, metrics.model_dump()) for name, metrics in found[:10]]
