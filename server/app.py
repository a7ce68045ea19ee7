"""The aggregator's Flower app: it reads the study, runs the federation, writes the run folder."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedward.server.events import Listener, nobody
from fedward.server.federation import Federation
from fedward.server.run_folder import write_json, write_model, write_rounds
from fedward.study.errors import OptionError
from fedward.study.study import read_study


def make_app(listener: Listener = nobody) -> ServerApp:
    """A ServerApp that tells a listener what happens.

    It takes from the run's configuration: `study` (path of the study file), `seed`, and `out`
    (folder for the results; none are written if it is empty).
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        study = read_study(_path(context, "study"))
        seed = int(str(context.run_config.get("seed", 0)))
        run = str(context.run_config.get("run") or context.run_id)
        federation = Federation(study, grid, run=run, seed=seed, listener=listener)
        outcome = federation.train_and_judge()
        if context.run_config.get("out"):
            out = _path(context, "out")
            out.mkdir(parents=True, exist_ok=True)
            write_model(study, outcome, out / "model.safetensors")
            write_rounds(outcome, out / "rounds.csv")
            write_json(
                {"study": study.digest(), "test": outcome.test, "seconds": outcome.seconds},
                out / "federation.json",
            )

    return server_app


def _path(context: Context, key: str) -> Path:
    value = context.run_config.get(key)
    if not value:
        raise OptionError(
            f"the run's configuration has no {key}",
            todo=f"pass it: flwr run . --run-config '{key}=\"/absolute/path\"'",
        )
    return Path(str(value))


app = make_app()
