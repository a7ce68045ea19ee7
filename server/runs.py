"""The registry of runs as the service needs it, until `run_registry` of the same shape is there.

Commands and the service talk through these folders alone: a command writes, the service looks, so a
command works whether or not the service runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from fedward.server.aside import write_aside, write_json
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study

State = Literal["submitted", "waiting", "running", "paused", "stopped", "finished", "failed"]

BY_ITSELF: frozenset[State] = frozenset({"submitted", "waiting", "running"})
"""States in which a run without a process is begun, or taken up, without being told to."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunRecord(BaseModel):
    """What `run.json` holds; further keys of other versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    title: str
    study: str
    seed: int = 0
    roster: int = 0
    created: str
    state: State = "submitted"
    reason: str = ""


class RunFolder:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def record(self) -> RunRecord:
        """What is known of the run.

        Raises:
            DataError: The file cannot be read.
        """
        path = self.folder / "run.json"
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(
                f"is no run ({error!s:.200})", todo="see fedward aggregator runs", where=str(path)
            ) from None

    @property
    def stop_asked(self) -> bool:
        """Whether somebody wants the run to stop."""
        return (self.folder / "stop").exists()

    @property
    def log(self) -> Path:
        """Where the output of the run's process goes."""
        return self.folder / "log.txt"

    def mark(self, state: State, reason: str = "") -> None:
        """Change the state."""
        after = self.record.model_copy(update={"state": state, "reason": reason})
        write_json(after.model_dump(), self.folder / "run.json")

    def ask_to_stop(self) -> None:
        """The run stops at the next chance."""
        (self.folder / "stop").touch()

    def clear_stop(self) -> None:
        """Nobody wants the run to stop any more."""
        (self.folder / "stop").unlink(missing_ok=True)


class RunRegistry:
    """All runs of an aggregator."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(
        self, study: Study, document: bytes, *, seed: int = 0, roster: int = 0, name: str = ""
    ) -> RunFolder:
        """A new run; the arguments are the registry's.

        Raises:
            OptionError: There is such a run, or the name is none.
        """
        now = datetime.now(UTC)
        slug = re.sub(r"[^a-z0-9]+", "-", study.study.name.lower()).strip("-")[:40] or "run"
        name = name or f"{slug}-{now:%Y%m%d-%H%M%S-%f}"
        run = RunFolder(self._folder / self._possible(name))
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            run.folder.mkdir(mode=0o700)
        except FileExistsError:
            raise OptionError(
                f"there is a run {name} already", todo="give another name, or resume that run"
            ) from None
        values = study.model_dump(mode="json", exclude_none=True)
        write_aside(run.folder / "study.json", document)
        write_aside(run.folder / "study.toml", tomli_w.dumps(values).encode())
        record = RunRecord(
            name=name,
            title=study.study.name,
            study=study.digest(),
            seed=seed,
            roster=roster,
            created=now.isoformat(timespec="seconds"),
        )
        write_json(record.model_dump(), run.folder / "run.json")  # last: now it is one
        return run

    def list(self) -> Sequence[RunRecord]:
        """Every run, the oldest first."""
        found = [RunFolder(path.parent).record for path in self._folder.glob("*/run.json")]
        return sorted(found, key=lambda record: record.created)

    def get(self, name: str) -> RunFolder:
        """One run.

        Raises:
            OptionError: There is none of this name.
        """
        if not (self._folder / self._possible(name) / "run.json").is_file():
            raise OptionError(f"there is no run {name}", todo="see fedward aggregator runs")
        return RunFolder(self._folder / name)

    def set_members(self, version: int, names: Collection[str]) -> None:
        """Say who may take part in all runs from their next exchange on."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json({"version": version, "names": sorted(names)}, self._folder / "members.json")

    @staticmethod
    def _possible(name: str) -> str:
        if not _NAME.fullmatch(name):
            raise OptionError(
                f"{name!r} is no possible name of a run", todo="use letters, digits, dots, dashes"
            )
        return name
