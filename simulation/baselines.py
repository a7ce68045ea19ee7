"""What federated training is compared with: one model of all records pooled, and one a hospital.

A baseline is a federation of one: the same rounds, steps and privacy, over a site that holds the
records of several hospitals or of one. All are judged on the same test records: everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from fedward.client.app import make_app, open_site
from fedward.client.data.records import Parts, Records
from fedward.client.data.stored import joined
from fedward.client.hospital import HospitalFile, Limits, models_of
from fedward.client.site import Site
from fedward.models.tasks.any_task import Sums
from fedward.privacy.schedule import noise_of
from fedward.server.events import Metrics
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid, start_workers
from fedward.study.aggregation import FedAvg
from fedward.study.errors import FedwardError
from fedward.study.messages import Part
from fedward.study.participation import Participation
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

# Nobody else is there: nothing to hide among, and nothing to bound.
_ALONE = FedAvg(secure=False, clip=1e6, max_records=2**31 - 1)

Noise = dict[str, LocalPrivacy]


class Compared(NamedTuple):
    """What a baseline came to on the test part.

    Attributes:
        test: Its metrics.
        sums: What they are computed from; None if nobody judged it.
    """

    test: Metrics
    sums: Sums | None


@dataclass(frozen=True)
class Baseline:
    """One model to train for comparison.

    Attributes:
        name: `pooled`, or the hospital's name.
        trains_on: Hospital files whose training and validation records it sees.
        judged_on: Hospital files whose test records judge it.
    """

    name: str
    trains_on: tuple[Path, ...]
    judged_on: tuple[Path, ...]


def baselines(hospitals: Sequence[Path]) -> list[Baseline]:
    """The pooled model, and a local one for each hospital."""
    everybody = tuple(hospitals)
    local = [Baseline(open_site(path).hospital.name, (path,), everybody) for path in hospitals]
    return [Baseline("pooled", everybody, everybody), *local]


def run_baselines(
    wanted: Sequence[Baseline], study: Study, *, seed: int, workers: int
) -> dict[str, Compared | FedwardError]:
    """What each baseline came to, by name, or why it did not; `pooled` is the pooled one."""
    noise = _noise(study)
    if workers <= 1:
        return {b.name: _tried(b, study, seed, noise) for b in wanted}
    with start_workers(workers) as pool:
        coming = {b.name: pool.submit(_tried, b, study, seed, noise) for b in wanted}
        return {name: future.result() for name, future in coming.items()}


def _tried(baseline: Baseline, study: Study, seed: int, noise: Noise) -> Compared | FedwardError:
    """A baseline that fails must not take the federated result with it."""
    try:
        return run_baseline(baseline, study, seed, noise)
    except FedwardError as error:
        return error


def run_baseline(baseline: Baseline, study: Study, seed: int, noise: Noise) -> Compared:
    """Train one baseline and judge it on the test part."""
    alone = study.model_copy(
        update={
            "aggregation": _ALONE,
            "participation": Participation(hospitals=1),
            "evaluation": None,
            "training": study.training.model_copy(update={"fine_tuning": None}),
            **noise,
        }
    )
    with TemporaryDirectory() as folder:
        site = _site_of(baseline, study, alone, Path(folder))
        app = make_app(lambda _: site)
        with InProcessGrid([Path(folder)], client_app=app) as grid:
            outcome = Federation(
                alone,
                grid,
                run=f"baseline-{baseline.name}",
                seed=seed,
                models=models_of(site.hospital, Path(folder)),
            ).train_and_judge()
    return Compared(outcome.test, outcome.sums.get("test"))


def _noise(study: Study) -> Noise:
    """The privacy of the baselines: the study's noise, found already."""
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy) or privacy.sampling_rate is None:
        return {}
    sigma = noise_of(study, privacy, privacy.sampling_rate)
    update = {"epsilon": None, "noise_multiplier": sigma}
    return {"privacy": privacy.model_copy(update=update)}


def _site_of(baseline: Baseline, study: Study, alone: Study, folder: Path) -> Site:
    trains = [open_site(path).load(study.digest()).parts for path in baseline.trains_on]
    judges = [open_site(path).load(study.digest()).parts for path in baseline.judged_on]
    parts: Parts = {
        "train": _together(trains, "train"),
        "validation": _together(trains, "validation"),
        "test": _together(judges, "test"),
    }
    example = open_site(baseline.trains_on[0]).hospital
    hospital = HospitalFile(
        name=baseline.name,
        device=example.device,
        models=example.models,
        data=example.data,
        limits=Limits(declared_patients=len(parts["train"].patients.unique())),
        simulation=example.simulation,
    )
    site = Site(hospital, folder)
    site.keep(alone, parts)
    return site


def _together(parts: Sequence[Parts], part: Part) -> Records:
    pieces = [p[part] for p in parts]
    patients, before = [], 0
    for piece in pieces:
        patients.append(piece.patients + before)
        before += int(piece.patients.max()) + 1 if len(piece) else 0
    return Records(
        joined([piece.inputs for piece in pieces]),
        joined([piece.labels for piece in pieces]),
        torch.cat(patients),
    )
