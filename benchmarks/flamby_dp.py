"""FLamby's Fed-Heart-Disease with differential privacy, beside what FLamby published.

    python benchmarks/flamby_dp.py [--data FOLDER] [--json] [--quick] [--tune]

`--tune` repeats the choice of settings, within the training parts, and runs nothing else.

Features are scaled by round clinical numbers that stand in the study. Beside that, at epsilon 1 and
10, the constants are measured within the same epsilon: the study has bounds alone (`BOUNDS`, from
common knowledge of adults in a clinic, not from these records), and of the budget the noise
multiplier of `MEASURED` is paid first. It alone was chosen anew, by `--tune`, on the training
parts; rounds, learning rate, clipping norm and weight decay are those of the public constants.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from dp_bounds import gaussian_epsilon
from dp_descent import Setting
from flamby_dp_tuning import DIVISIONS, DRAWS, GRID, PARTS, best, best_noise
from report import Report, arguments, mean, nobody, row, show
from safetensors.torch import load_file

from fedward.client.data.parts import assign
from fedward.client.data.reading import read_all
from fedward.client.data.records import Parts
from fedward.client.data.sources import CsvSource
from fedward.client.hospital import read_hospital
from fedward.client.scaling import scaled
from fedward.client.site import Site
from fedward.models.registry import build, settled
from fedward.privacy.accounting import SampledGaussian, calibrate, epsilon_of
from fedward.privacy.schedule import measuring, noise_of
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.parts import GivenParts
from fedward.study.privacy import LocalPrivacy
from fedward.study.scaling import Scaling
from fedward.study.study import Study, read_study
from fedward.study.table_data import Feature, TableData
from fedward.study.training import Training

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "uci_heart_disease"
PRIVATE = ROOT / "examples" / "heart-disease-private.toml"
PLAIN = ROOT / "examples" / "heart-disease.toml"
PACKAGES = ("fedward", "opacus", "torch", "numpy")
DELTA = 1e-4
SEEDS = range(5)

# What --tune answers.
CHOSEN = {
    0.1: Setting(30, 0.3, 0.5, 0.0),
    1.0: Setting(10, 3.0, 0.5, 0.01),
    5.0: Setting(30, 3.0, 1.0, 0.0),
    10.0: Setting(30, 3.0, 2.0, 0.0),
    50.0: Setting(30, 3.0, 2.0, 0.0),
}

# What a table of an adult in a clinic may say; whatever is beyond counts as the bound.
BOUNDS = {
    "age": (20.0, 90.0),
    "resting_blood_pressure": (80.0, 200.0),
    "cholesterol": (100.0, 400.0),
    "max_heart_rate": (60.0, 220.0),
    "st_depression": (0.0, 4.0),
}
# Noise multiplier of the measured constants; --tune answers it too.
MEASURED = {1.0: 7.0, 10.0: 2.0}

# FLamby, flamby/dp_example/results_fed_heart_disease.csv at b00c657, delta 1e-4, seeds 42 to 46:
# mean of the four centres' test accuracy. None is without differential privacy.
PUBLISHED = {
    None: (0.69149, 0.69175, 0.74264, 0.73262, 0.70388),
    0.1: (0.54215, 0.42244, 0.71373, 0.67691, 0.67289),
    1.0: (0.67070, 0.60388, 0.75345, 0.70719, 0.69106),
    5.0: (0.69264, 0.63195, 0.76388, 0.72815, 0.70148),
    10.0: (0.67913, 0.62188, 0.76669, 0.73296, 0.70148),
    50.0: (0.68709, 0.62469, 0.76388, 0.73090, 0.70148),
}
# Its training patients in batches of 4; noise for 15 passes, but 15 rounds of 100 steps are taken.
THEIRS = {"cleveland": 199, "hungarian": 172, "switzerland": 30, "va": 85}
THEIR_BATCH, THEIR_PASSES, THEIR_STEPS = 4, 15, 1500


class Judged(NamedTuple):
    """One run's model on the test parts."""

    centres: dict[str, float]
    result: Result

    @property
    def mean_of_centres(self) -> float:
        """What FLamby publishes."""
        return statistics.fmean(self.centres.values())


def main() -> None:
    """Run every epsilon with every seed, and print the curve."""
    parser = arguments("Heart disease with differential privacy, beside FLamby.", timed=False)
    parser.add_argument("--data", type=Path, default=DATA, help="the four processed.*.data files")
    parser.add_argument("--tune", action="store_true", help="only choose the settings again")
    options = parser.parse_args()
    report = Report("flamby_dp")
    if not options.data.is_dir():
        report.left_out.append(f"everything: no folder {options.data} (give --data)")
    elif options.tune:
        _tune(report, options.data)
    else:
        seeds = SEEDS[:1] if options.quick else SEEDS
        with tempfile.TemporaryDirectory() as folder:
            write_tables(options.data, Path(folder))
            for epsilon in (1.0,) if options.quick else (None, *CHOSEN):
                _measure(report, epsilon, study_of(epsilon), Path(folder), seeds)
            for epsilon in () if options.quick else MEASURED:
                _measure(report, epsilon, measured_study(epsilon), Path(folder), seeds)
    for line in report.left_out:
        print(f"left out: {line}", file=sys.stderr)
    show(report, packages=PACKAGES, as_json=options.json)


def _measure(
    report: Report, epsilon: float | None, study: Study, data: Path, seeds: Sequence[int]
) -> None:
    runs = [judge(study, data, seed) for seed in seeds]
    name = "no privacy" if epsilon is None else f"epsilon {epsilon:g}"
    if study.data.measured:
        name += ", measured constants"
    report.rows.append(
        row(
            f"{name}: mean of four centres",
            [run.mean_of_centres for run in runs],
            PUBLISHED[epsilon],
            unit="accuracy",
            peer_name="FLamby, published",
            middle_of=statistics.fmean,
        )
    )
    found: dict[str, Any] = {
        "pooled accuracy": mean(run.result.metrics.federated.accuracy for run in runs),
        "pooled AUC": mean(run.result.metrics.federated.auc for run in runs),
        "centres": {name: mean(run.centres[name] for run in runs) for name in runs[0].centres},
        "rounds lost": sum(run.result.sums.lost for run in runs),
        "updates clipped": sum(run.result.sums.clipped for run in runs),
    }
    if epsilon is not None:
        found |= _privacy(study, epsilon, runs)
    report.checks[name] = found


def _privacy(study: Study, epsilon: float, runs: Sequence[Judged]) -> dict[str, Any]:
    """The epsilon of the hospitals' ledgers, an exact one beside it, and FLamby's."""
    privacy = study.privacy
    assert isinstance(privacy, LocalPrivacy)
    steps = study.training.rounds / noise_of(study, privacy, rate=1.0) ** 2
    measured = sum(1 / event.noise_multiplier**2 for event in measuring(study))
    mu = math.sqrt(steps + measured)  # Gaussians over everybody compose exactly
    spent = [one.epsilon or 0.0 for run in runs for one in run.result.privacy.values()]
    return {
        "epsilon by the ledgers, at most": round(max(spent), 4),
        "epsilon, exact": round(gaussian_epsilon(mu, privacy.delta), 4),
        "FLamby's epsilon": {name: round(e, 2) for name, e in true_epsilons(epsilon).items()},
    }


def study_of(epsilon: float | None) -> Study:
    """The example study at another budget, with the settings chosen for it, in FLamby's parts."""
    if epsilon is None:
        return settled(_as_written(read_study(PLAIN)))
    study, chosen = _as_written(read_study(PRIVATE)), CHOSEN[epsilon]
    training = Training(
        rounds=chosen.rounds,
        local_steps=1,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
    )
    privacy = LocalPrivacy(
        mode="local",
        epsilon=epsilon,
        delta=DELTA,
        sampling_rate=chosen.sampling_rate,
        clipping_norm=chosen.clipping_norm,
    )
    return settled(study.model_copy(update={"training": training, "privacy": privacy}))


def measured_study(epsilon: float) -> Study:
    """The same with measured constants in place of public ones, within the same budget."""
    study = study_of(epsilon)
    assert isinstance(study.data, TableData)
    features = {
        name: Feature(bounds=BOUNDS[name], absent=feature.absent) if name in BOUNDS else feature
        for name, feature in study.data.features.items()
    }
    data = study.data.model_copy(update={"features": features, "scaling": "measured"})
    noise = {"statistics_noise_multiplier": MEASURED[epsilon]}
    privacy = study.privacy.model_copy(update=noise)
    return study.model_copy(update={"data": data, "privacy": privacy})


def _as_written(study: Study) -> Study:
    """The study over the tables of `write_tables`."""
    source = study.simulation.source
    given = {"source": {**source, "columns": [*source["columns"], "part"]}}
    return study.model_copy(
        update={
            "data": study.data.model_copy(update={"parts": GivenParts()}),
            "simulation": study.simulation.model_copy(update=given),
        }
    )


def write_tables(data: Path, folder: Path) -> None:
    """The centres' tables with FLamby's division, which is at random, as a last column.

    No private study divides at random; here the division is published, and protects nobody.
    """
    study = settled(read_study(PLAIN))
    for name, file in (study.simulation.files or {}).items():
        values = {**study.simulation.source, "path": file}
        raw = read_all(CsvSource.model_validate(values, strict=False), study, data)
        parts = dict(zip(raw.rows.tolist(), assign(raw, study.data.parts, where=name), strict=True))
        lines = [line for line in (data / file).read_text("utf-8").splitlines() if line.strip()]
        whole = [f"{line},{parts.get(row, 'train')}" for row, line in enumerate(lines)]
        (folder / file).write_text("\n".join(whole) + "\n", encoding="utf-8")


def judge(study: Study, data: Path, seed: int) -> Judged:
    """Run the study, and judge its model file on each hospital's own test part."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = Options(out=out, data=data, seed=seed, baselines=False, workers=1)
        result = simulate(study, options, listener=nobody, say=nobody)
        model = build(study, seed=0)
        model.load_state_dict(load_file(out / "model.safetensors"))
        parts = dict(_parts(study, sorted(out.glob("hospitals/*/*.toml"))))
    if result.scaling is not None:
        found = result.scaling.values()
        scaling = Scaling(tuple(c.center for c in found), tuple(c.scale for c in found))
        parts = {name: scaled(each, study.data, scaling) for name, each in parts.items()}
    tests = {name: each["test"] for name, each in parts.items()}
    called = {name: model(test.inputs).argmax(dim=1) == test.labels for name, test in tests.items()}
    return Judged({name: right.double().mean().item() for name, right in called.items()}, result)


def _parts(study: Study, files: Sequence[Path]) -> list[tuple[str, Parts]]:
    sites = [Site(read_hospital(file), file.parent) for file in files]
    return [(site.hospital.name, site.load(study.digest()).parts) for site in sites]


def true_epsilons(nominal: float) -> dict[str, float]:
    """What FLamby's code spends at each centre, had its batches been Poisson samples.

    With Opacus' accountant of Renyi orders, the default of its time.
    """
    found = {}
    for name, patients in THEIRS.items():
        batches = math.ceil(patients / THEIR_BATCH)
        sigma = calibrate(nominal, DELTA, 1 / batches, THEIR_PASSES * batches, "rdp")
        taken = SampledGaussian(sigma, 1 / batches, THEIR_STEPS)
        found[name] = epsilon_of([taken], DELTA, "rdp")
    return found


def _tune(report: Report, data: Path) -> None:
    study = study_of(1.0)
    as_read = measured_study(1.0)
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables"
        tables.mkdir()
        write_tables(data, tables)
        files = make_hospitals(study, tables, Path(folder) / "hospitals", seed=0)
        training = [parts["train"] for _, parts in _parts(study, files)]
        files = make_hospitals(as_read, tables, Path(folder) / "bounded", seed=0)
        bounded = [parts["train"] for _, parts in _parts(as_read, files)]
    report.checks["tuned on"] = (
        f"{[len(records) for records in training]} training records; {len(GRID)} settings, "
        f"{DIVISIONS} divisions into {PARTS} parts, {DRAWS} noises"
    )
    for epsilon in CHOSEN:
        setting, accuracy = best(training, epsilon=epsilon, delta=DELTA)
        report.checks[f"epsilon {epsilon:g}"] = {"accuracy": accuracy, **asdict(setting)}
    for epsilon in MEASURED:
        noise, accuracy = best_noise(
            bounded, as_read.data, CHOSEN[epsilon], epsilon=epsilon, delta=DELTA
        )
        chosen = {"accuracy": accuracy, "statistics_noise_multiplier": noise}
        report.checks[f"epsilon {epsilon:g}, measured constants"] = chosen


if __name__ == "__main__":
    main()
