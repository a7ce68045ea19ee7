"""One run of a clinical study: simulated, then judged at each hospital and over all of them."""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clinical_studies import Clinical, Side
from report import nobody
from safetensors import safe_open
from safetensors.torch import load_file

from fedward.client.data.records import Parts
from fedward.client.hospital import read_hospital
from fedward.client.scaling import scaled
from fedward.client.site import Site
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.privacy import LocalPrivacy, NoPrivacy
from fedward.study.scaling import Scaling
from fedward.study.study import Study, parse_study, read_study
from fedward.study.task import ClassTask, SurvivalTask

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

Figures = dict[str, float | None]


@dataclass
class Run:
    """What one seed of one side came to.

    Attributes:
        whole: SHA-256 over the study file, `[simulation]` too, which no digest of a study covers,
            the sizes and times of the data's files, and the versions of Fedward and PyTorch.
        models: Figures by model: the side itself, and for the federated one `pooled` and
            `only HOSPITAL`, all on the test records of all hospitals.
        epsilon: Greatest of the hospitals' ledgers; None without privacy.
        hospitals: Figures of the federated model on each hospital's own test records.
        seconds: Of the federated run and of the baselines.
        lost: Rounds that were given up.
        clipped: Updates that were shortened.
    """

    whole: str
    models: dict[str, Figures]
    epsilon: float | None
    hospitals: dict[str, Figures] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)
    lost: int = 0
    clipped: int = 0


def study_of(clinical: Clinical, side: Side, *, rounds: int | None = None) -> Study:
    """The study file of a side; without privacy if the federated side has no file of its own."""
    study = read_study(EXAMPLES / clinical.files[side])
    if side == "federated" and isinstance(study.privacy, LocalPrivacy):
        study = study.model_copy(update={"privacy": NoPrivacy()})
    if rounds is not None:
        training = study.training.model_copy(update={"rounds": rounds})
        study = study.model_copy(update={"training": training})
    return settled(parse_study(study.model_dump(mode="json", exclude_none=True)))


def run(
    clinical: Clinical,
    side: Side,
    study: Study,
    data: Path | None,
    kept: Path,
    *,
    seed: int,
    workers: int | None,
) -> Run:
    """One run; what stands in the folder of kept runs for the same study is not run again."""
    file = kept / f"{clinical.name}-{side}-{seed}.json"
    if file.exists():
        values = json.loads(file.read_text("utf-8"))
        if values["whole"] == whole(study, data):
            return Run(**values)
    found = _simulated(clinical, side, study, data, seed=seed, workers=workers)
    aside = file.with_suffix(".tmp")
    aside.write_text(json.dumps(asdict(found), allow_nan=False), encoding="utf-8")
    aside.replace(file)
    return found


def whole(study: Study, data: Path | None) -> str:
    """What tells two runs of a seed apart, in hexadecimal digits: study, data files, versions."""
    files = [] if data is None else [data, *sorted(data.rglob("*"))]
    found = ((file, file.stat()) for file in files if file.is_file())
    told = {
        "study": study.model_dump_json(),
        "versions": {name: version(name) for name in ("fedward", "torch")},
        "data": [[str(file), about.st_size, about.st_mtime_ns] for file, about in found],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _simulated(
    clinical: Clinical,
    side: Side,
    study: Study,
    data: Path | None,
    *,
    seed: int,
    workers: int | None,
) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = Options(
            out=out, data=data, seed=seed, baselines=side == "federated", workers=workers
        )
        result = simulate(study, options, listener=nobody, say=nobody)
        everywhere, hospitals = judged(study, out, result)
    beside = result.metrics
    models = {side: _chosen(clinical, beside.federated.model_dump() | everywhere)}
    if beside.pooled is not None:
        models["pooled"] = _chosen(clinical, beside.pooled.model_dump())
    for name, metrics in beside.local.items():
        models[f"only {name}"] = _chosen(clinical, metrics.model_dump())
    spent = [one.epsilon for one in result.privacy.values() if one.epsilon is not None]
    return Run(
        whole=whole(study, data),
        models=models,
        epsilon=max(spent, default=None),
        hospitals={name: _chosen(clinical, found) for name, found in hospitals.items()},
        seconds=(result.seconds, result.seconds_baselines),
        lost=result.sums.lost,
        clipped=result.sums.clipped,
    )


def _chosen(clinical: Clinical, metrics: dict[str, Any]) -> Figures:
    return {name: metrics[name] for name in clinical.figures if metrics.get(name) is not None}


def judged(study: Study, out: Path, result: Result) -> tuple[Figures, dict[str, dict[str, Any]]]:
    """The model file on each hospital's own test part: figures over all, and of each hospital."""
    model, task = build(study, seed=0), task_of(study)
    model.load_state_dict(load_file(out / "model.safetensors"))
    model.eval()
    threshold = _threshold(out / "model.safetensors")
    told, truths, hospitals = [], [], {}
    for file in sorted(out.glob("hospitals/*/*.toml")):
        site = Site(read_hospital(file), file.parent)
        test = _as_trained(study, result, site.load(study.digest()).parts)["test"]
        if not len(test):
            continue
        with torch.inference_mode():
            outputs = torch.cat([model(inputs) for inputs, _ in test.batches(512)])
        truth = torch.cat([task.truth(*batch) for batch in test.batches(512)])
        hospitals[site.hospital.name] = task.metrics(task.sums(outputs, truth), threshold)
        told.append(outputs)
        truths.append(truth)
    everywhere: Figures = {}
    if isinstance(study.task, ClassTask):
        own = [found["accuracy"] for found in hospitals.values()]
        everywhere["mean_of_centres"] = statistics.fmean(own)
    if isinstance(study.task, SurvivalTask):  # compares within a hospital: here all are one
        sums = task.sums(torch.cat(told), torch.cat(truths))
        everywhere["exact_concordance"] = task.metrics(np.asarray(sums))["concordance_inside"]
    return everywhere, hospitals


def _threshold(file: Path) -> float:
    with safe_open(file, framework="pt") as opened:
        return float(json.loads(opened.metadata()["fedward"]).get("threshold") or 0.5)


def _as_trained(study: Study, result: Result, parts: Parts) -> Parts:
    """The parts with the constants that the run measured, if it did."""
    if result.scaling is None:
        return parts
    found = result.scaling.values()
    scaling = Scaling(tuple(c.center for c in found), tuple(c.scale for c in found))
    return scaled(parts, study.data, scaling)
