"""The aggregator's Flower app: it reads the study, runs the federation, writes the run folder."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedward.models.registry import read_settled
from fedward.server.events import Listener
from fedward.server.federation import Federation
from fedward.server.lost_rounds import DEPLOYED, LostRounds
from fedward.server.quick_grid import quick
from fedward.server.run_folder import write_results
from fedward.server.run_registry import RunFolder
from fedward.server.sentences import log_event
from fedward.server.tracked_run import run_tracked
from fedward.study.errors import OptionError

Config = Mapping[str, object]


def make_app(listener: Listener = log_event, config: Config | None = None) -> ServerApp:
    """A ServerApp that tells a listener what happens.

    Args:
        listener: Is told what happens; writes to Flower's log by default.
        config: Either `folder` (a run's folder in the registry, which holds everything else) with
            `repeats` and `wait_seconds` for rounds that too few answered, `tracking` (trackers,
            see `fedward.server.tracked_run`), or
            `study` (path of the study file), `out` (folder for the results; none are written if it
            is empty), `seed` and `run` (the run's name); both may have `models` (folder of
            pretrained models); the run's own configuration if None.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        given = context.run_config if config is None else config
        named = {"run": str(context.run_id), **{k: v for k, v in given.items() if v}}
        with quick(grid) as line:
            _run(line, named, listener)

    return server_app


def _run(grid: Grid, config: Config, listener: Listener) -> None:
    models = _path(config, "models") if config.get("models") else None
    if "folder" in config:
        folder = _path(config, "folder")
        with _logged(RunFolder(folder).log):
            run_tracked(
                folder,
                grid,
                listener,
                str(config.get("tracking", "")),
                lost_rounds=_patience(config),
                models=models,
            )
        return
    study = read_settled(_path(config, "study"))
    seed, run = int(str(config.get("seed", 0))), str(config["run"])
    outcome = Federation(
        study, grid, run=run, seed=seed, listener=listener, models=models
    ).train_and_judge()
    if "out" in config:
        write_results(study, outcome, _path(config, "out"), models=models)


def _patience(config: Config) -> LostRounds:
    return replace(
        DEPLOYED,
        repeats=int(str(config.get("repeats", DEPLOYED.repeats))),
        wait_seconds=float(str(config.get("wait_seconds", DEPLOYED.wait_seconds))),
    )


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What this process logs meanwhile, and what ends it, goes to the run's own file too."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError:  # a full disk: what it says of that is in the run's state
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(), logging.getLogger("flwr")]  # Flower's passes nothing on
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except Exception:
        handler.handle(
            logging.LogRecord(
                "fedward", logging.ERROR, __file__, 0, "the run ended", None, sys.exc_info()
            )
        )
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _path(config: Config, key: str) -> Path:
    value = config.get(key)
    if not value:
        raise OptionError(
            f"the run's configuration has no {key}",
            todo=f"pass it: flwr run . --run-config '{key}=\"/absolute/path\"'",
        )
    return Path(str(value))


app = make_app()
