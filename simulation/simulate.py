"""A whole simulation: hospitals from one data set, the federation, the baselines, the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import tomli_w
import torch
from flwr.app import Context, RecordDict

from fedward.client.app import open_site
from fedward.client.data.context import Progress, unseen
from fedward.client.data.reading import forget_shared
from fedward.models.registry import build, settled
from fedward.models.travelling import travelling
from fedward.privacy.ledger import Ledger
from fedward.privacy.schedule import epsilon_after
from fedward.server.app import make_app
from fedward.server.durable import write_json
from fedward.server.events import Event, Listener, Outcome, RoundFinished, RoundLost
from fedward.server.run_folder import write_judged
from fedward.server.sentences import lost_sentence
from fedward.simulation.baselines import baselines, run_baselines
from fedward.simulation.download import found_data
from fedward.simulation.grid import SECONDS_TO_START_WORKERS, InProcessGrid, usable_cores
from fedward.simulation.hospitals import CACHE, make_hospitals
from fedward.simulation.ray_engine import run_on_ray
from fedward.simulation.result import (
    AllMetrics,
    Constants,
    EvaluationNoise,
    HospitalRecords,
    Metrics,
    Result,
    Spent,
    StoppedEarly,
    StudyIdentity,
    Sums,
)
from fedward.simulation.unreliable import UnreliableGrid
from fedward.study.errors import FedwardError, InputError, OptionError, StudyError
from fedward.study.privacy import LocalPrivacy
from fedward.study.simulation import Failure
from fedward.study.study import Study, parse_study

RUN = "simulation"
"""What hospitals know the run as."""


@dataclass(frozen=True)
class Options:
    """How to run a simulation.

    Attributes:
        out: The run folder; must be new or empty.
        data: The data set, if the study does not bring it.
        seed: Of everything that is drawn.
        baselines: Also train the pooled and the local models.
        workers: Processes; all usable cores if None.
        engine: `processes` of this machine, or `ray` for a cluster.
        drop: Probability with which a message is lost; the study's if None.
        models: Folder of pretrained models.
    """

    out: Path
    data: Path | None = None
    seed: int = 0
    baselines: bool = True
    workers: int | None = None
    engine: Literal["processes", "ray"] = "processes"
    drop: float | None = None
    models: Path | None = None


def with_hospitals(study: Study, hospitals: int | None) -> Study:
    """The study for another number of hospitals.

    Raises:
        OptionError: The study's other numbers do not allow it.
    """
    if hospitals is None or hospitals == study.participation.hospitals:
        return study
    now = study.participation
    least = max(now.invited or 1, now.min_hospitals or 1)
    if hospitals < least:
        raise OptionError(
            f"--hospitals {hospitals} is less than the study's [participation] asks for",
            todo=f"give at least {least}, or change the study",
        )
    values = study.model_dump(mode="json", exclude_none=True)
    values["participation"]["hospitals"] = hospitals
    try:
        return parse_study(values)
    except StudyError as error:
        raise OptionError(
            f"--hospitals {hospitals} does not fit the study",
            todo=f"give another number, or change the study; allowed: {error.allowed}",
        ) from None


def simulate(
    study: Study,
    options: Options,
    *,
    listener: Listener,
    say: Callable[[str], None],
    progress: Progress = unseen,
) -> Result:
    """Run a study and write its run folder.

    Args:
        study: What to run.
        options: How.
        listener: Told what happens in the federation.
        say: Told, in a line, what happens around it.
        progress: Told of the first decoding of the records.

    Raises:
        FedwardError: Anything that keeps the study from finishing. Where it is something that was
            given, nothing is left in the run folder.
    """
    made = not options.out.exists()
    out = _fresh(options.out)
    try:
        return _simulate(study, options, listener, say, progress)
    except InputError:
        for entry in out.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if made:
            out.rmdir()
        raise


def _simulate(
    study: Study,
    options: Options,
    listener: Listener,
    say: Callable[[str], None],
    progress: Progress,
) -> Result:
    out = options.out
    if options.engine == "ray" and any(_losses(study, options)):
        raise OptionError(
            "messages are lost on purpose with the engine `processes` only",
            todo="leave out --drop, or --engine ray",
        )
    open_site.cache_clear()  # an earlier run of this process may have had the same folders
    forget_shared()
    workers = options.workers or usable_cores()
    study = settled(study)
    # A model that cannot be built, or of which nothing travels, is refused before data is read.
    travelling(study, build(study, seed=options.seed, models=options.models))
    epsilon_after(study, 1)  # finds the noise once; workers and baselines then need not
    data = found_data(study, options.data, say=say)
    hospitals = make_hospitals(
        study,
        data,
        out / "hospitals",
        seed=options.seed,
        progress=progress,
        models=options.models,
    )
    for path in hospitals:
        open_site(path).load(study.digest())
    outcome = _federate(study, hospitals, options, workers, listener)
    started = time.monotonic()
    compared: dict[str, Metrics] = {}
    judged = {f"federated.{part}": sums for part, sums in outcome.sums.items()}
    failures = [*_failures(outcome)]
    if options.baselines:
        say(f"Training for comparison: one pooled model and {len(hospitals)} local ones")
        # They cost about twice the federated run: workers must be worth their start.
        few = 1 if 2 * outcome.seconds < SECONDS_TO_START_WORKERS else workers
        with one_thread():
            tried = run_baselines(baselines(hospitals), study, seed=options.seed, workers=few)
        for name, found in tried.items():
            if isinstance(found, FedwardError):
                failures.append(f"model for comparison, {name}: {found.what}")
            else:
                compared[name] = Metrics(**found.test)
                model = name if name == "pooled" else f"local.{name}"
                if found.sums is not None:
                    judged[f"{model}.test"] = found.sums
    pooled = compared.pop("pooled", None)
    result = Result(
        fedward=version("fedward"),
        study=StudyIdentity(name=study.study.name, digest=study.digest()),
        seed=options.seed,
        rounds=study.training.rounds,
        seconds=round(outcome.seconds, 3),
        seconds_baselines=round(time.monotonic() - started, 3),
        epsilon_baselines=epsilon_after(study, study.training.rounds) if compared else None,
        metrics=AllMetrics(
            federated=Metrics(**outcome.test),
            personal=None if outcome.personal is None else Metrics(**outcome.personal),
            pooled=pooled,
            local=compared,
        ),
        validation=None if outcome.validation is None else Metrics(**outcome.validation),
        sums=_sums(study, outcome),
        privacy={open_site(path).hospital.name: _spent(path, study) for path in hospitals},
        hospitals={open_site(path).hospital.name: _records(path, study) for path in hospitals},
        scaling=_constants(outcome),
        evaluation_noise=None if outcome.noise is None else EvaluationNoise(**outcome.noise),
        early_stopping=_stopped(outcome),
        failures=failures,
    )
    from fedward.simulation.curves import draw_curves  # matplotlib may look for fonts first

    draw_curves(outcome, result, out / "curves.png")
    write_judged(study, judged, out)
    write_json(result.model_dump(mode="json"), out / "result.json")
    shutil.rmtree(out / "hospitals" / CACHE, ignore_errors=True)
    return result


def _sums(study: Study, outcome: Outcome) -> Sums:
    finished = [r for r in outcome.rounds if isinstance(r, RoundFinished)]
    return Sums(
        secure=study.aggregation.secure,
        clipped=sum(r.clipped for r in finished),
        capped=max((r.capped for r in finished), default=0),
        repeated=sum(r.attempts > 1 for r in finished),
        lost=len(outcome.rounds) - len(finished),
    )


def _constants(outcome: Outcome) -> dict[str, Constants] | None:
    if outcome.scaling is None:
        return None
    return {name: Constants(**found) for name, found in outcome.scaling.items()}


def _stopped(outcome: Outcome) -> StoppedEarly | None:
    return None if outcome.early_stopping is None else StoppedEarly(**outcome.early_stopping)


def _failures(outcome: Outcome) -> Iterator[str]:
    for refused in outcome.refusals:
        yield f"round {refused.round}: {refused.refusal.hospital}: {refused.refusal.what}"
    for finished in outcome.rounds:
        if isinstance(finished, RoundLost):
            yield lost_sentence(finished)
        elif finished.silent:
            yield f"round {finished.round}: {finished.silent} hospitals said nothing in time"


def _federate(
    study: Study, hospitals: Sequence[Path], options: Options, workers: int, listener: Listener
) -> Outcome:
    """Run the aggregator's own app over the hospitals' own app, in this process."""
    outcomes: list[Outcome] = []

    def listen(event: Event) -> None:
        if isinstance(event, Outcome):
            outcomes.append(event)
        listener(event)

    file = options.out / "study.toml"
    file.write_bytes(tomli_w.dumps(study.model_dump(mode="json", exclude_none=True)).encode())
    out = str(options.out.resolve())
    models = "" if options.models is None else str(options.models.resolve())
    config = {
        **{"study": str(file.resolve()), "out": out, "seed": options.seed, "run": RUN},
        "models": models,
    }
    if options.engine == "ray":
        run_on_ray(config, hospitals, listen)
    else:
        with one_thread(), _grid(study, hospitals, options, workers) as grid:
            make_app(listen, config)(grid, Context(1, 0, {}, RecordDict(), {}))
    return outcomes[0]


def _grid(study: Study, hospitals: Sequence[Path], options: Options, workers: int) -> InProcessGrid:
    drop, failures = _losses(study, options)
    if not drop and not failures:
        return InProcessGrid(hospitals, workers=workers)
    return UnreliableGrid(
        hospitals, drop=drop, failures=failures, seed=options.seed, workers=workers
    )


def _losses(study: Study, options: Options) -> tuple[float, tuple[Failure, ...]]:
    rule = study.simulation
    return rule.drop if options.drop is None else options.drop, rule.failures


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, as workers have: the number of threads changes the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fresh(out: Path) -> Path:
    """An empty run folder; an earlier run in its place is refused, never mixed with."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(
            "is not empty", todo="give another --out, or delete that folder", where=str(out)
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"cannot be made ({error.strerror})", todo="give another --out", where=str(out)
        ) from None
    return out


def _spent(path: Path, study: Study) -> Spent:
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return Spent(epsilon=None, delta=None, unit=None, noise="none")
    site = open_site(path)
    ledger = Ledger(path.parent / site.hospital.state / "ledger.sqlite")
    data = site.hospital.data.name
    epsilon = ledger.epsilon(data=data, delta=privacy.delta, accountant=privacy.accountant)
    return Spent(epsilon=epsilon, delta=privacy.delta, unit="patient", noise="seeded")


def _records(path: Path, study: Study) -> HospitalRecords:
    parts = open_site(path).load(study.digest()).parts
    return HospitalRecords(**{part: len(records) for part, records in parts.items()})
