"""`clinical.png`: each study's foremost figure for every model, with each seed and the target."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by the colour-blind and in print.
_COLOURS = {"federated": "#0072B2", "private": "#E69F00", "pooled": "#009E73"}
_GREY = "#767676"


def draw(document: dict[str, Any], path: Path) -> None:
    """One panel a study: bars are means over seeds, dots single seeds, the line the target."""
    studies = list(dict.fromkeys(row["study"] for row in document["figures"]))
    figure = Figure(figsize=(4.2 * len(studies), 3.4), layout="constrained")
    for place, study in enumerate(studies, start=1):
        axes = figure.add_subplot(1, len(studies), place)
        rows = [row for row in document["figures"] if row["study"] == study]
        told = rows[0]["figure"]
        rows = [row for row in rows if row["figure"] == told]
        for height, row in enumerate(rows):
            colour = _COLOURS.get(row["model"], _GREY)
            axes.barh(height, statistics.fmean(row["seeds"]), 0.6, color=colour, alpha=0.8)
            axes.plot(row["seeds"], [height] * len(row["seeds"]), ".", color="black", markersize=4)
        for target in _lines(document, study, told):
            axes.axvline(target, color="black", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rows)), [row["model"] for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0.3, 1.0)
        axes.set_title(f"{study}: {told.replace('_', ' ')}", fontsize=9)
    aside = path.with_suffix(".tmp.png")
    figure.savefig(aside, dpi=150)
    aside.replace(path)


def _lines(document: dict[str, Any], study: str, figure: str) -> Sequence[float]:
    return [
        target["to_reach"]
        for target in document["targets"]
        if (target["study"], target["figure"], target["model"]) == (study, figure, "federated")
    ]
