"""A run of the registry, and the trackers of `aggregator.toml` beside it."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.serverapp import Grid

from fedward.server.events import Event, Listener
from fedward.server.lost_rounds import DEPLOYED, LostRounds
from fedward.server.registered_run import run_registered
from fedward.server.run_registry import RunFolder, State
from fedward.server.tracker_targets import Targets
from fedward.server.tracking import Tracker, Tracking
from fedward.study.errors import FedwardError
from fedward.study.study import Study

_LOG = logging.getLogger("flwr.fedward")


def run_tracked(
    folder: Path,
    grid: Grid,
    listener: Listener,
    tracking: str = "",
    *,
    lost_rounds: LostRounds = DEPLOYED,
    models: Path | None = None,
) -> State:
    """Run as `run_registered` does; trackers that do not work are a line in the run's log.

    Args:
        folder: As there.
        grid: As there.
        listener: As there.
        tracking: `Targets.document()`.
        lost_rounds: As there.
        models: As there.

    Returns:
        As there.

    Raises:
        Exception: As there.
    """
    run = RunFolder(folder)
    found = _trackers_for(run, tracking)
    if found is None:
        return run_registered(folder, grid, listener, lost_rounds=lost_rounds, models=models)
    study, trackers = found
    record = run.record
    key = f"{record.name}.{record.created}.{record.study[:16]}"
    with Tracking(
        study, trackers, name=record.name, key=key, seed=record.seed, say=_LOG.warning
    ) as tracked:

        def listen(event: Event) -> None:
            listener(event)
            tracked.listen(event)

        state = run_registered(folder, grid, listen, lost_rounds=lost_rounds, models=models)
        if state == "finished":
            tracked.results(folder)
        else:
            tracked.stopped()
        return state


def _trackers_for(run: RunFolder, tracking: str) -> tuple[Study, list[Tracker]] | None:
    """The study and its trackers; None if there is nothing to track."""
    record = run.record
    if not tracking or record.state == "finished" or record.wants != "model":
        return None
    try:
        trackers = Targets.parse(tracking).trackers()
        return (run.study, trackers) if trackers else None
    except FedwardError as error:  # a study that does not hold, `run_registered` tells again
        _LOG.warning("the run is not tracked (%s)", error.line())
        return None
