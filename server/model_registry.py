"""The models of an aggregator's finished runs, and what people decided about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.model_log import LOG, Change, ModelLog, changed, digest_of
from fedward.server.run_errors import RunPaused
from fedward.server.run_registry import RunFolder, RunRegistry
from fedward.study.errors import FedwardError, OptionError

MODEL = "model.safetensors"
"""In a run's folder."""


@dataclass(frozen=True)
class Registered:
    """A run's model.

    Attributes:
        now: The newest change.
        fits: Whether the model's file is still the one that the log knows.
    """

    now: Change
    fits: bool


class ModelRegistry:
    """The models of all runs of an aggregator.

    Args:
        folder: That holds the runs' folders.
    """

    def __init__(self, folder: Path) -> None:
        self._runs = RunRegistry(folder)
        self._folder = folder
        self._log = ModelLog(folder / LOG)

    def enter(self, run: RunFolder) -> None:
        """The model that a run has just written is a candidate from now on.

        Raises:
            RunPaused: The log cannot be used, or somebody decided on another model of this run.
        """
        try:
            model = digest_of(run.folder / MODEL)
            if model is None:
                raise changed(run.folder.name)
            self._log.enter(run.folder.name, study=run.record.study, model=model)
        except RunPaused:
            raise
        except FedwardError as error:
            raise RunPaused(error.what, todo=error.todo, where=error.where) from None

    def changes(self) -> list[Change]:
        """The whole log, the oldest first.

        Raises:
            BrokenModelLog: A row was changed, is missing or was put in.
            DataError: The log cannot be read.
        """
        return self._log.changes()

    def models(self) -> list[Registered]:
        """Every model with its newest change, in the order in which they came to the log.

        Raises:
            BrokenModelLog: As `changes`.
            DataError: The log, or a model, cannot be read.
        """
        newest = {change.run: change for change in self.changes()}
        return [Registered(now, self._digest(now.run) == now.model) for now in newest.values()]

    def history(self, run: str) -> list[Change]:
        """All that was said of a run's model, the oldest first.

        Raises:
            OptionError: Nothing was.
            BrokenModelLog: As `changes`.
            DataError: As `changes`.
        """
        found = [change for change in self.changes() if change.run == run]
        if not found:
            raise OptionError(
                f"there is no model of {run} in the log", todo="see fedward aggregator models"
            )
        return found

    def approve(self, run: str, *, by: str, reason: str) -> Change:
        """A person allows the use of a run's model.

        Raises:
            OptionError: There is no such candidate, or person or reason cannot be written down.
            DataError: The model's file is not the one that the run finished with.
            BrokenModelLog: As `changes`.
        """
        record = self._runs.get(run).record
        if record.state != "finished":
            raise OptionError(
                f"the run is not finished ({record.state})", todo="wait for it", where=run
            )
        return self._log.decide(run, "approved", by=by, reason=reason, model=self._digest(run))

    def retire(self, run: str, *, by: str, reason: str) -> Change:
        """A person ends the use of a run's model, also of one whose file is gone or changed.

        Raises:
            OptionError: There is no such model, it is retired already, or person or reason cannot
                be written down.
            BrokenModelLog: As `changes`.
        """
        return self._log.decide(run, "retired", by=by, reason=reason, model=None)

    def _digest(self, run: str) -> str | None:
        return digest_of(self._folder / run / MODEL)
