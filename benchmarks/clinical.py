"""The clinical studies of `examples/`: federated, with differential privacy, pooled, and alone.

    python benchmarks/clinical.py [--data-root FOLDER] [--only NAME] [--seeds 3] [--out FOLDER]
                                  [--workers N] [--json] [--quick]

Every study runs from its file, with secure sums, once a seed; its private file too. The federated
side also trains a model on all records pooled and one at each hospital alone, as `fedward simulate`
does. A target is reached if the mean over seeds is; nothing in here chooses a setting
(`clinical_tuning.py` does, within training parts). FOLDER gets `clinical.csv`, `clinical.png`, and
`runs/`: a run that stands there for the same study is not run again.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clinical_picture import draw
from clinical_runs import Run, run, study_of
from clinical_studies import DEMO, STUDIES, Clinical, Side, Target
from report import arguments, heading
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fedward", "flwr", "opacus", "torch", "numpy")
QUICK_ROUNDS = 3

Runs = dict[Side, list[Run]]


def main() -> None:
    """Run the studies that are asked for, and print what they came to."""
    parser = arguments("The clinical studies, beside their targets.", timed=False)
    parser.add_argument("--data-root", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", action="append", help="name of a study; again for several")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/clinical"))
    parser.add_argument("--workers", type=int, help="processes; all cores by default")
    options = parser.parse_args()
    studies = _wanted(options.only, quick=options.quick)
    kept = options.out / "runs"
    kept.mkdir(parents=True, exist_ok=True)
    found: dict[str, Runs] = {}
    left_out = []
    for clinical in studies:
        data = None if clinical.data is None else options.data_root / clinical.data
        if data is not None and not data.exists():
            left_out.append(f"{clinical.name}: no {data} (give --data-root)")
            continue
        found[clinical.name] = _run_all(
            clinical,
            data,
            kept,
            seeds=range(1 if options.quick else options.seeds),
            rounds=QUICK_ROUNDS if options.quick else None,
            workers=options.workers,
        )
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    there = [clinical for clinical in studies if clinical.name in found]
    document = {
        **heading("clinical", PACKAGES),
        "figures": [row for c in there for row in _figures(c, found[c.name])],
        "targets": [_judged(c, t, found[c.name]) for c in there for t in c.targets],
        "published": [_published(c) for c in there if c.published],
        "runs": {c.name: _told(found[c.name]) for c in there},
        "left_out": left_out,
    }
    _write_csv(document["figures"], document["published"], options.out / "clinical.csv")
    if there:
        draw(document, options.out / "clinical.png")
    if options.json:
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print(document, there)


def _wanted(names: Sequence[str] | None, *, quick: bool) -> list[Clinical]:
    """The studies named; without names all of them, or the one that brings its records."""
    known = {clinical.name: clinical for clinical in (*STUDIES, DEMO)}
    if unknown := [name for name in names or () if name not in known]:
        sys.exit(f"no study {unknown[0]!r}; there are {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    return [DEMO] if quick else list(STUDIES)


def _run_all(
    clinical: Clinical,
    data: Path | None,
    kept: Path,
    *,
    seeds: Sequence[int],
    rounds: int | None,
    workers: int | None,
) -> Runs:
    runs: Runs = {}
    for side in clinical.files:
        study = study_of(clinical, side, rounds=rounds)
        runs[side] = []
        for seed in seeds:
            print(f"{clinical.name}, {side}, seed {seed}", file=sys.stderr, flush=True)
            runs[side].append(run(clinical, side, study, data, kept, seed=seed, workers=workers))
    return runs


def _figures(clinical: Clinical, runs: Runs) -> Iterator[dict[str, Any]]:
    """A row for each figure of each model: the two sides first, then pooled and local ones."""
    models: dict[str, list[Run]] = {}
    for side_runs in runs.values():
        for one in side_runs:
            for model in one.models:
                models.setdefault(model, []).append(one)
    order = sorted(models, key=lambda model: (model.startswith("only"), model == "pooled"))
    for figure in clinical.figures:
        for model in order:
            seeds = [
                value
                for one in models[model]
                if (value := one.models[model].get(figure)) is not None
            ]
            if seeds:
                yield {
                    "study": clinical.name,
                    "figure": figure,
                    "model": model,
                    "mean": statistics.fmean(seeds),
                    "least": min(seeds),
                    "greatest": max(seeds),
                    "seeds": seeds,
                }


def _judged(clinical: Clinical, target: Target, runs: Runs) -> dict[str, Any]:
    ours = _mean(runs[target.side], target.side, target.figure)
    least = target.least
    if least is None:
        least = _mean(runs["federated"], "federated", target.figure) - (target.within or 0.0)
    return {
        "study": clinical.name,
        "model": target.side,
        "figure": target.figure,
        "ours": ours,
        "to_reach": least,
        "reached": ours >= least,
        "source": f"federated - {target.within:g}" if target.least is None else target.source,
    }


def _mean(runs: Sequence[Run], model: str, figure: str) -> float:
    return statistics.fmean(one.models[model][figure] or 0.0 for one in runs)


def _published(clinical: Clinical) -> dict[str, Any]:
    return {
        "study": clinical.name,
        "publisher": clinical.publisher,
        "read_from": clinical.read_from,
        "figures": [
            {"model": one.model, "figure": one.figure, "value": one.value}
            for one in clinical.published
        ],
    }


def _told(runs: Runs) -> dict[str, Any]:
    """What a run cost, and whether anything was lost in it."""
    return {
        side: {
            "epsilon": max((r.epsilon for r in found if r.epsilon is not None), default=None),
            "seconds": [round(r.seconds[0], 1) for r in found],
            "seconds of baselines": [round(r.seconds[1], 1) for r in found],
            "rounds lost": sum(r.lost for r in found),
            "updates clipped": sum(r.clipped for r in found),
            "hospitals": [r.hospitals for r in found],
        }
        for side, found in runs.items()
    }


def _write_csv(
    rows: Sequence[dict[str, Any]], published: Sequence[dict[str, Any]], path: Path
) -> None:
    """A line for each seed of ours; of others' figures, which are means, a line without a seed."""
    aside = path.with_suffix(".tmp")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("study", "figure", "model", "seed", "value"))
        for row in rows:
            for seed, value in enumerate(row["seeds"]):
                writer.writerow((row["study"], row["figure"], row["model"], seed, value))
        for theirs in published:
            for one in theirs["figures"]:
                model = f"{theirs['publisher']}: {one['model']}"
                writer.writerow((theirs["study"], one["figure"], model, "", one["value"]))
    aside.replace(path)


def _print(document: dict[str, Any], studies: Sequence[Clinical]) -> None:
    console = Console()
    for clinical in studies:
        console.print(_table(clinical, document["figures"]))
    targets = Table("study", "model", "figure", "ours", "to reach", "", "whose", title="Targets")
    for one in document["targets"]:
        targets.add_row(
            one["study"], one["model"], one["figure"], f"{one['ours']:.4f}",
            f"{one['to_reach']:.4f}", "reached" if one["reached"] else "missed", one["source"],
        )  # fmt: skip
    console.print(targets)
    for name, sides in document["runs"].items():
        for side, told in sides.items():
            short = {key: value for key, value in told.items() if key != "hospitals"}
            console.print(f"{name}, {side}: {short}", style="dim")
    console.print(f"{document['date']}, {document['machine']}, {document['versions']}", style="dim")


def _table(clinical: Clinical, rows: Sequence[dict[str, Any]]) -> Table:
    """Ours, and below a line what others published, with where that stands."""
    table = Table("model", *clinical.figures, title=clinical.name, title_justify="left")
    if clinical.published:
        table.caption = f"{clinical.publisher}: {clinical.read_from}"
    ours = {(row["model"], row["figure"]): row for row in rows if row["study"] == clinical.name}
    for model in dict.fromkeys(model for model, _ in ours):
        cells = (ours.get((model, figure)) for figure in clinical.figures)
        table.add_row(model, *map(_cell, cells))
    table.add_section()
    theirs = {(one.model, one.figure): one.value for one in clinical.published}
    for model in dict.fromkeys(one.model for one in clinical.published):
        values = (theirs.get((model, figure)) for figure in clinical.figures)
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        table.add_row(f"{clinical.publisher}: {model}", *cells, style="dim")
    return table


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.3f} ({row['least']:.3f} to {row['greatest']:.3f})"


if __name__ == "__main__":
    main()
