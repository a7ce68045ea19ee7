"""Whole private studies by Fedward's gradient engine and by Opacus' hooks, the reference.

    python benchmarks/private_studies.py [--data-root FOLDER] [--only NAME] [--rounds N] [--json]

The chest X-ray and the arrhythmia study of `examples/`, each once by either, with the same seed:
their figures must agree up to the order of sums, and the clipped sums must take the time that steps
like `private_training.py`'s predict. Steps of the prediction have random values, the study's
network, and as many records and patients as some of its steps, from the least to the greatest; what
is between them is interpolated. Both are processor time of one thread.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from report import arguments, heading, nobody
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from fedward.client.hospital import TrainingSettings, read_hospital, write_hospital
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import ClippedSums, Gradients
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.study import Study, parse_study, read_study

ROOT = Path(__file__).resolve().parents[1]
STUDIES = {
    "chest-xray-private": "pneumoniamnist/pneumoniamnist.npz",
    "arrhythmia-private": "mitbih/mitbih_beats.npz",
}
KINDS: dict[Gradients, type[ClippedSums]] = {"fedward": EngineSums, "opacus": HookedSums}
_REPEATS = 15
_SIZES = (0.0, 0.25, 0.5, 0.75, 1.0)  # places among the study's steps, by records
_PACKAGES = ("fedward", "opacus", "torch", "numpy")


@dataclass
class Spent:
    """What clipped sums took in one run.

    Attributes:
        seconds: Processor time of each.
        sizes: Records and patients of each.
        last: A source and what it was asked, from which a step of any size can be made.
    """

    seconds: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    last: tuple[ClippedSums, Callable[..., Tensor], Tensor, Tensor] | None = None

    @property
    def total(self) -> float:
        """Of all sums."""
        return math.fsum(self.seconds)


@contextmanager
def timed(kind: type[ClippedSums]) -> Iterator[Spent]:
    """Within, every clipped sum of this kind is timed."""
    spent, own = Spent(), kind.of

    def of(
        source: ClippedSums,
        loss: Callable[..., Tensor],
        inputs: Tensor,
        labels: Tensor,
        counts: Tensor,
    ) -> list[Tensor]:
        began = time.process_time()
        found = own(source, loss, inputs, labels, counts)
        spent.seconds.append(time.process_time() - began)
        spent.sizes.append((len(inputs), len(counts)))
        spent.last = (source, loss, inputs, labels)
        return found

    with patch.object(kind, "of", of):
        yield spent


def simulated(study: Study, data: Path, out: Path, gradients: Gradients) -> Result:
    """One simulation whose hospitals all take gradients from the same place."""

    def chosen(*args: Any, **named: Any) -> list[Path]:  # noqa: ANN401
        files = make_hospitals(*args, **named)
        for file in files:
            settings = TrainingSettings(gradients=gradients)
            write_hospital(read_hospital(file).model_copy(update={"training": settings}), file)
        return files

    with patch("fedward.simulation.simulate.make_hospitals", chosen):
        options = Options(out=out, data=data, seed=0, workers=1, baselines=False)
        return simulate(study, options, listener=nobody, say=nobody)


def predicted(spent: dict[Gradients, Spent]) -> dict[Gradients, float]:
    """Seconds of all steps by either, from steps on random values of some of their sizes."""
    sizes = sorted(spent["fedward"].sizes)
    some = [sizes[round(share * (len(sizes) - 1))] for share in _SIZES]
    steps = [_steps(spent, records, patients) for records, patients in some]
    return {
        name: float(
            np.interp(
                [records for records, _ in each.sizes],
                [records for records, _ in some],
                [step[name] for step in steps],
            ).sum()
        )
        for name, each in spent.items()
    }


def _steps(spent: dict[Gradients, Spent], records: int, patients: int) -> dict[Gradients, float]:
    """Seconds of a step of this size by either, in turns."""
    counts = torch.full((patients,), records // patients)
    counts[: records % patients] += 1
    times: dict[Gradients, list[float]] = {name: [] for name in KINDS}
    asked: dict[Gradients, Callable[[], object]] = {}
    for name, kind in KINDS.items():
        last = spent[name].last
        assert last is not None
        source, loss, inputs, labels = last
        model = copy.deepcopy(source._model)
        fresh = kind(
            model, bound=source._bound, clipping=source._clipping, precision=source._precision
        )
        torch.manual_seed(0)
        made = torch.randn((records, *inputs.shape[1:])).to(inputs)
        told = labels[torch.randint(len(labels), (records,))]
        asked[name] = lambda f=fresh, o=loss, i=made, t=told: f.of(o, i, t, counts)
    for turn in range(-2, _REPEATS):
        for name in asked:
            began = time.process_time()
            asked[name]()
            if turn >= 0:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def compared(name: str, data: Path, rounds: int | None) -> dict[str, Any]:
    """Both runs of one study, and what steps alone say of their time."""
    study = read_study(ROOT / "examples" / f"{name}.toml")
    if rounds is not None:
        values = study.model_dump(mode="json", exclude_none=True)
        values["training"]["rounds"] = rounds
        study = parse_study(values)
    spent: dict[Gradients, Spent] = {}
    results: dict[Gradients, Result] = {}
    weights: dict[Gradients, dict[str, Tensor]] = {}
    whole: dict[Gradients, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for gradients, kind in KINDS.items():
            out, began = Path(folder) / gradients, time.process_time()
            with timed(kind) as found:
                results[gradients] = simulated(study, data, out, gradients)
            spent[gradients], whole[gradients] = found, time.process_time() - began
            weights[gradients] = load_file(out / "model.safetensors")
    if not all(each.seconds for each in spent.values()):
        raise RuntimeError(f"{name}: no clipped sum was made in this process")
    steps = predicted(spent)
    figures = {g: _figures(result) for g, result in results.items()}
    return {
        "study": name,
        "rounds": study.training.rounds,
        "figures": figures,
        "greatest_difference": max(
            abs(figures["fedward"][key] - figures["opacus"][key]) for key in figures["fedward"]
        ),
        "weights_apart": max(
            float((one - weights["opacus"][key]).norm() / weights["opacus"][key].norm())
            for key, one in weights["fedward"].items()
            if one.is_floating_point() and weights["opacus"][key].norm() > 0
        ),
        "sums": {g: len(each.seconds) for g, each in spent.items()},
        "seconds": {g: each.total for g, each in spent.items()},
        "predicted": steps,
        "run_seconds": whole,
    }


def _figures(result: Result) -> dict[str, float]:
    told = result.metrics.federated.model_dump(mode="json")
    return {key: value for key, value in told.items() if isinstance(value, float)}


def main() -> None:
    """Run what is asked for and print it."""
    parser = arguments("Whole private studies, by the engine and by Opacus.")
    parser.add_argument("--data-root", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", help="studies whose names have this in them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, place in STUDIES.items():
        if (options.only or "") not in name:
            continue
        data = options.data_root / place
        if not data.exists():
            print(f"left out: {name}: no {data} (give --data-root)", file=sys.stderr)
            continue
        rows.append(compared(name, data, 2 if options.quick else options.rounds))
    if options.json:
        print(json.dumps({**heading("private_studies", _PACKAGES), "rows": rows}, indent=2))
        return
    table = Table("study", "", "Fedward", "Opacus", "Opacus / Fedward")
    for row in rows:
        for what in ("seconds", "predicted", "run_seconds"):
            ours, theirs = row[what]["fedward"], row[what]["opacus"]
            table.add_row(
                row["study"], what, f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}"
            )
        for key, ours in row["figures"]["fedward"].items():
            theirs = row["figures"]["opacus"][key]
            table.add_row(row["study"], key, f"{ours:.5f}", f"{theirs:.5f}", "")
        table.add_row(row["study"], "weights apart", f"{row['weights_apart']:.1e}", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
