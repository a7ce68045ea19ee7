"""MIT-BIH: what the same epsilon is worth to a patient when it is counted by beat or by patient.

    python benchmarks/mitbih_dp.py [--data FILE] [--json] [--quick] [--tune]

`--tune` repeats the choice of settings, among the patients to train on, and runs nothing else.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from dp_bounds import epsilon_of_many, largest_group, log10_delta_of_group
from dp_descent import NO_CLIPPING, Setting
from mitbih_beats import FEATURES, HOSPITALS, TEST, TRAIN, read_beats, write_table
from mitbih_dp_tuning import DRAWS, FOLDS, best, grid
from report import Report, arguments, nobody, row, show

from fedward.models.registry import settled
from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.schedule import noise_of
from fedward.simulation.result import Metrics, Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study, parse_study

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mitbih" / "mitbih_beats.npz"
PACKAGES = ("fedward", "opacus", "torch", "numpy")
EPSILON = 8.0
PROVEN_DELTA = 1e-3  # as by patient
SEEDS = range(5)
QUICK_BEATS, QUICK_ROUNDS = 60, 2


@dataclass(frozen=True)
class Unit:
    """Whom a run protects.

    Attributes:
        patient: What the hospitals' files call a patient: a column, or `record` for every beat.
        delta: Below 1 over the patients so understood of the largest hospital; None for no privacy.
        setting: What --tune answers.
    """

    patient: str
    delta: float | None
    setting: Setting


PATIENTS = Unit("patient", 1e-3, Setting(60, 1.0, 0.1, 0.05, 1.0, 256))
BEATS = Unit("record", 1e-5, Setting(60, 3.0, 3.0, 0.0, 0.02, 1))
NOBODY = Unit("record", None, Setting(60, 1.0, NO_CLIPPING, 0.05, 0.02, 1))
UNITS = {"by patient": PATIENTS, "by beat": BEATS, "no privacy": NOBODY}


def main() -> None:
    """Run both kinds of privacy and none with every seed, and print them side by side."""
    parser = arguments("Privacy of a beat beside privacy of a patient.", timed=False)
    parser.add_argument("--data", type=Path, default=DATA, help="mitbih_beats.npz")
    parser.add_argument("--tune", action="store_true", help="only choose the settings again")
    options = parser.parse_args()
    report = Report("mitbih_dp")
    if not options.data.is_file():
        report.left_out.append(f"everything: no file {options.data} (give --data)")
    elif options.tune:
        _tune(report, read_beats(options.data))
    else:
        _compare(report, read_beats(options.data), quick=options.quick)
    for line in report.left_out:
        print(f"left out: {line}", file=sys.stderr)
    show(report, packages=PACKAGES, as_json=options.json)


def _compare(report: Report, beats: pd.DataFrame, *, quick: bool) -> None:
    seeds = SEEDS[:1] if quick else SEEDS
    units = {name: _quick(unit) if quick else unit for name, unit in UNITS.items()}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "beats.csv"
        write_table(beats, table, most=QUICK_BEATS if quick else None)
        written = pd.read_csv(table)
        runs = {name: _runs(study_of(unit), table, seeds) for name, unit in units.items()}
    for metric in ("AUC", "accuracy"):
        ours, peer = ([_metric(run, metric) for run in runs[name]] for name in list(UNITS)[:2])
        name = f"{metric}, epsilon {EPSILON:g} by patient beside by beat"
        report.rows.append(row(name, ours, peer, unit=metric, peer_name="by beat"))
    for name, unit in units.items():
        report.checks[name] = _found(unit, runs[name])
    test = written[written["part"] == "test"]
    normal = float(1 - test["ectopic"].mean())
    report.checks["every beat called normal"] = {"accuracy": round(normal, 3)}
    report.checks["by beat, for a patient"] = _for_a_patient(units["by beat"], written)


def _quick(unit: Unit) -> Unit:
    return replace(unit, setting=replace(unit.setting, rounds=QUICK_ROUNDS))


def study_of(unit: Unit) -> Study:
    """The study that protects this unit."""
    chosen = unit.setting
    privacy: dict[str, Any] = {
        "mode": "local",
        "epsilon": EPSILON,
        "delta": unit.delta,
        "clipping_norm": chosen.clipping_norm,
        "sampling_rate": chosen.sampling_rate,
        "records_per_patient": chosen.records_per_patient,
    }
    values: dict[str, Any] = {
        "study": {"name": "ectopic-beats"},
        "task": {"kind": "binary", "classes": ["normal", "ectopic"]},
        "model": {"name": "mlp", "hidden": []},
        "data": {
            "kind": "table",
            "label": "ectopic",
            "features": FEATURES,
            "parts": {"by": "file"},
        },
        "training": {
            "rounds": chosen.rounds,
            "local_steps": 1,
            "batch_size": 256,
            "learning_rate": chosen.learning_rate,
            "weight_decay": chosen.weight_decay,
        },
        "aggregation": {"max_records": 20_000},
        "participation": {"hospitals": HOSPITALS, "min_hospitals": HOSPITALS - 1},
        "simulation": {
            "split": "site",
            "site": "hospital",
            "source": {"format": "csv", "patient": unit.patient},
        },
    }
    return settled(parse_study(values if unit.delta is None else values | {"privacy": privacy}))


def _runs(study: Study, table: Path, seeds: Sequence[int]) -> list[Result]:
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            options = Options(out=out, data=table, seed=seed, baselines=False, workers=1)
            found.append(simulate(study, options, listener=nobody, say=nobody))
    return found


def _metric(run: Result, name: str) -> float:
    metrics: Metrics = run.metrics.federated
    return float(getattr(metrics, name.lower()))


def _found(unit: Unit, runs: Sequence[Result]) -> dict[str, Any]:
    names = ("auc", "accuracy", "sensitivity", "specificity")
    medians = {name: statistics.median(_metric(run, name) for run in runs) for name in names}
    found = {name: round(value, 3) for name, value in medians.items()} | {
        "rounds lost": sum(run.sums.lost for run in runs),
        "updates clipped": sum(run.sums.clipped for run in runs),
    }
    if unit.delta is None:
        return found
    spent = [one.epsilon or 0.0 for run in runs for one in run.privacy.values()]
    return found | {"epsilon by the ledgers, at most": round(max(spent), 4), "delta": unit.delta}


def _for_a_patient(unit: Unit, table: pd.DataFrame) -> dict[str, Any]:
    """What the promise for a beat is worth to a patient, who has thousands."""
    study = study_of(unit)
    assert isinstance(study.privacy, LocalPrivacy)
    delta = study.privacy.delta
    rate = unit.setting.sampling_rate
    steps = SampledGaussian(noise_of(study, study.privacy, rate), rate, study.training.rounds)
    of_each = table[table["part"] == "train"].groupby("patient").size()
    median = int(of_each.median())
    return {
        "beats of a patient: least, median, most": [int(of_each.min()), median, int(of_each.max())],
        "epsilon of the median patient by group privacy": EPSILON * median,
        "its delta, as a power of 10": round(log10_delta_of_group(EPSILON, delta, median)),
        "most beats with a delta below 1": largest_group(EPSILON, delta),
        f"proven epsilon of the median patient at delta {PROVEN_DELTA:g}": round(
            epsilon_of_many(steps, PROVEN_DELTA, median)
        ),
    }


def _tune(report: Report, beats: pd.DataFrame) -> None:
    report.checks["tuned on"] = (
        f"{len(TRAIN)} patients, none of the {len(TEST)} to judge on; {FOLDS} folds, {DRAWS} noises"
    )
    for name, unit in UNITS.items():
        settings = grid(unit.setting)
        by_beat = unit.patient == "record"
        setting, area = best(beats, settings, by_beat=by_beat, epsilon=EPSILON, delta=unit.delta)
        report.checks[name] = {"settings": len(settings), "AUC": area, **asdict(setting)}


if __name__ == "__main__":
    main()
