"""A run of the registry: its state, events, history and results lie in its folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from flwr.serverapp import Grid

from fedward.privacy.small_cells import shown_for
from fedward.server.checkpoint import Checkpoints, packed_round
from fedward.server.durable import write_durably, write_json
from fedward.server.evaluated import write_evaluated
from fedward.server.events import (
    Event,
    HospitalsAwaited,
    Listener,
    Outcome,
    RoundDelayed,
    RoundFinished,
    RoundLost,
    RoundStarted,
)
from fedward.server.federation import Federation
from fedward.server.judgement import finished
from fedward.server.lost_rounds import DEPLOYED, LostRounds
from fedward.server.model_registry import ModelRegistry
from fedward.server.offering import SignedOffer
from fedward.server.run_errors import RunPaused, RunStopped
from fedward.server.run_folder import write_results
from fedward.server.run_registry import STATISTICS, RunFolder, State, line_of
from fedward.study.errors import DataError, FedwardError


def run_registered(
    folder: Path,
    grid: Grid,
    listener: Listener,
    *,
    lost_rounds: LostRounds = DEPLOYED,
    models: Path | None = None,
) -> State:
    """Begin a run, or take it up where it was; when this returns its state says how it ended.

    A run that an earlier process still ends is waited for, and left as that process leaves it if it
    finishes the run, or stops as a person asked.

    Args:
        folder: Of the run, in a registry.
        grid: The way to the hospitals.
        listener: Is told what happens, too.
        lost_rounds: How patient the run is.
        models: The aggregator's folder of pretrained models.

    Returns:
        How it ended; a later process may have gone on with it since.

    Raises:
        DataError: The folder is no run's.
        FedwardError: What made the run fail; its state says so.
        Exception: What nobody thought of, such as a connection that is gone: the run was cut off
            and waits to be taken up again.
    """
    run = RunFolder(folder)
    before = run.record.state
    if before == "finished":
        return before
    with contextlib.ExitStack() as held:  # until the state is marked: the next process marks it too
        try:
            held.enter_context(run.taken())
            left = run.record.state
            if left != before and left in {"finished", "stopped"}:
                return left
            _run(run, grid, listener, lost_rounds, models)
        except RunStopped:
            run.clear_stop()
            run.mark("stopped")
        except RunPaused as paused:
            _mark(run, "paused", paused.line())
        except OSError as error:
            _mark(run, "paused", f"the run's folder cannot be used ({error.strerror})")
        except FedwardError as error:
            _mark(run, "failed", error.line())
            raise
        except Exception as error:
            _mark(run, "waiting", f"cut off ({type(error).__name__}), to be resumed")
            raise
        return run.record.state


def _mark(run: RunFolder, state: State, reason: str) -> None:
    with contextlib.suppress(RunPaused, OSError):  # the disk that is full may be this one
        run.mark(state, reason)


def _run(
    run: RunFolder,
    grid: Grid,
    listener: Listener,
    lost_rounds: LostRounds,
    models: Path | None,
) -> None:
    record, study = run.record, run.study
    before = Checkpoints(run.checkpoint).latest()
    rounds = [] if before is None else list(before.rounds)
    outcomes: list[Outcome] = []

    def heed() -> None:
        if run.stop_asked:
            raise RunStopped("stopped by a person", todo="resume it when you like")

    def listen(event: Event) -> None:
        match event:
            case HospitalsAwaited():
                run.mark("waiting", event.words)
            case RoundStarted():
                run.mark("running")
            case RoundDelayed():
                run.mark("waiting", event.why)
            case RoundFinished() | RoundLost():
                rounds.append(event)
                _write_history(run, rounds)
            case Outcome():
                outcomes.append(event)
        run.note(line_of(event))
        listener(event)

    run.mark("waiting", "for hospitals")
    _write_history(run, rounds)
    offer = SignedOffer(study, run.document, grid, run=record.name, roster=run.roster, heed=heed)
    federation = Federation(
        study,
        grid,
        run=record.name,
        seed=record.seed,
        listener=listen,
        folder=run.checkpoint,
        lost_rounds=lost_rounds,
        members=run.members,
        offering=offer,
        heed=heed,
        models=models,
    )
    if record.wants == "statistics":
        found = shown_for(study, federation.statistics())
        write_json(found.model_dump(mode="json"), run.folder / STATISTICS)
    elif record.wants == "evaluation":
        _judge_again(run, federation)
    else:
        federation.train_and_judge()
        write_results(study, outcomes[0], run.folder, models=models)
        ModelRegistry(run.folder.parent).enter(run)
    run.mark("finished")


def _judge_again(run: RunFolder, federation: Federation) -> None:
    """Another run's model, by the hospitals that are there now; that run stays as it is."""
    study, other = run.study, RunFolder(run.folder.parent / run.record.of)
    done = Checkpoints(other.checkpoint).latest()
    if done is None or done.study != study.digest():
        raise DataError(
            "is no finished run of the same study",
            todo="see fedward aggregator runs",
            where=str(other.folder),
        )
    outcome = finished(study, done)
    sums = federation.judged_again(outcome.model, done.scaling)
    write_evaluated(study, sums, outcome.threshold, run.folder)


def _write_history(run: RunFolder, rounds: Sequence[RoundFinished | RoundLost]) -> None:
    """Each round so far, for people and plots."""
    document = {"rounds": [packed_round(record) for record in rounds]}
    write_durably(run.folder / "history.json", json.dumps(document, indent=2).encode() + b"\n")
