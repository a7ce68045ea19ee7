"""The runs of an aggregator, as folders that a person can read.

runs/
├── roster.json            who may take part, as the coordinator signed it
├── models.sqlite          which models may be used, and who said so; beside it its head
└── <run>/
    ├── run.json           name, study, seed, state and its reason
    ├── study.json         the study as the coordinator signed it
    ├── study.toml         the same study, for people and for the run
    ├── checkpoint/        where the run is
    ├── history.json       each round so far
    ├── events.jsonl       what happened, a line each; nothing of a patient
    ├── log.txt            what the run's process said
    ├── process            held by the process that trains the run
    ├── lock               held for a moment by whoever changes these files
    ├── stop               there while a person wants the run to stop
    └── model.safetensors  and the other results, at the end; or
        statistics.json    the table, where nothing but that is wanted
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward.privacy.model_log import LOG
from fedward.server.durable import alone_in, cannot_write, write_durably
from fedward.server.events import Event, Outcome
from fedward.server.members import Members
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study

State = Literal["submitted", "waiting", "running", "paused", "stopped", "finished", "failed"]
Wanted = Literal["model", "statistics", "evaluation"]

BY_ITSELF: frozenset[State] = frozenset({"submitted", "waiting", "running"})
"""States in which a run without a process is begun, or taken up, without being told to."""

STATISTICS = "statistics.json"
"""The table of a run that wants nothing else."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAKEN = {"roster.json", LOG, f"{LOG}.head", f"{LOG}-journal"}


class RunRecord(BaseModel):
    """One run.

    Attributes:
        name: As hospitals know it, in their ledgers and journals: never used twice.
        title: The study's name.
        study: The study's digest.
        seed: Of the first model and of who is invited.
        roster: Version of the roster when it was submitted.
        created: When that was, UTC.
        state: `waiting` is for hospitals, `paused` for a person.
        reason: Why it is in this state; may be empty.
        wants: A model; or only the study's table of statistics, or only that another run's model
            is judged again, and nothing is trained.
        of: Name of that other run; empty where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME.pattern)]
    title: str
    study: str
    seed: int
    roster: int = 0
    created: str
    state: State = "submitted"
    reason: str = ""
    wants: Wanted = "model"
    of: str = ""


class RunFolder:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that a registry made."""
        self.folder = folder

    @property
    def checkpoint(self) -> Path:
        """Where the run keeps where it is."""
        return self.folder / "checkpoint"

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the run for the process that trains it; waits for one that still ends."""
        with (self.folder / "process").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def is_taken(self) -> bool:
        """Whether a process trains it now; the kernel knows, also of one that was killed."""
        try:
            with (self.folder / "process").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    @property
    def exchanges(self) -> int:
        """How many checkpoints there were so far: it grows as the run comes further."""
        numbers = (folder.name.partition("-")[2] for folder in self.checkpoint.glob("after-*"))
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    @property
    def log(self) -> Path:
        """Where the output of the run's process goes."""
        return self.folder / "log.txt"

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
                f"is no run ({' '.join(str(error).split())[:200]})",
                todo="see fedward aggregator runs",
                where=str(path),
            ) from None

    @property
    def study(self) -> Study:
        """The run's study, settled.

        Raises:
            DataError: It is not the study that was submitted.
        """
        from fedward.models.registry import read_settled  # the service does without torch

        path = self.folder / "study.toml"
        study = read_settled(path)
        if study.digest() != self.record.study:
            raise DataError(
                "is not the study that was submitted",
                todo="submit the changed study as a new run",
                where=str(path),
            )
        return study

    @property
    def document(self) -> bytes:
        """The study as the coordinator signed it.

        Raises:
            DataError: The file cannot be read.
        """
        path = self.folder / "study.json"
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror})", todo="submit the study anew", where=str(path)
            ) from None

    def mark(self, state: State, reason: str = "") -> RunRecord:
        """Change the state; a line in the events says so too.

        Raises:
            RunPaused: The disk does not take it.
        """
        try:
            with alone_in(self.folder):  # the service, the run and a person all mark it
                before = self.record
                after = before.model_copy(update={"state": state, "reason": reason})
                if after != before:
                    write_durably(self.folder / "run.json", _json(after.model_dump()))
                    self._note({"event": "State", "state": state, "reason": reason})
        except OSError as error:
            raise cannot_write(self.folder / "run.json", error) from None
        return after

    def roster(self) -> bytes:
        """Who may take part now, as the coordinator signed it.

        Raises:
            DataError: The file cannot be read.
        """
        path = self.folder.parent / "roster.json"
        try:
            return path.read_bytes()
        except OSError as error:
            raise _no_roster(path, str(error.strerror)) from None

    def members(self) -> Members:
        """Who may take part now.

        Raises:
            DataError: The roster cannot be read.
        """
        try:
            values = json.loads(self.roster())
            return Members(int(values["version"]), frozenset(map(str, values["members"])))
        except (ValueError, KeyError, TypeError) as error:
            raise _no_roster(self.folder.parent / "roster.json", str(error)) from None

    def ask_to_stop(self) -> None:
        """The run stops at the next chance, also when it is begun again before it did."""
        (self.folder / "stop").touch()

    @property
    def stop_asked(self) -> bool:
        """Whether somebody wants the run to stop."""
        return (self.folder / "stop").exists()

    def clear_stop(self) -> None:
        """Nobody wants the run to stop any more."""
        (self.folder / "stop").unlink(missing_ok=True)

    def note(self, line: dict[str, Any]) -> None:
        """Add a line to the events. One that was cut off by a crash stays a line of its own."""
        with alone_in(self.folder):
            self._note(line)

    def _note(self, line: dict[str, Any]) -> None:
        path = self.folder / "events.jsonl"
        whole = json.dumps({"at": _now(), **line}, allow_nan=True) + "\n"
        with path.open("a+b") as events:
            if events.tell():
                events.seek(-1, 2)
                whole = whole if events.read(1) == b"\n" else f"\n{whole}"
            events.write(whole.encode())


class RunRegistry:
    """All runs of an aggregator."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it is made when the first run is."""
        self._folder = folder

    def create(
        self,
        study: Study,
        document: bytes,
        *,
        seed: int = 0,
        roster: int = 0,
        name: str = "",
        wants: Wanted = "model",
        of: str = "",
    ) -> RunFolder:
        """A new run.

        Args:
            study: What was signed, settled and checked before.
            document: The same as the coordinator signed it.
            seed: Of the run.
            roster: Version of the roster now.
            name: Of the run; one from the study's name and the time if it is empty.
            wants: What is to come of it.
            of: The run whose model is judged again.

        Raises:
            OptionError: There is such a run, or the name is none.
            RunPaused: The disk does not take it.
        """
        now = datetime.now(UTC)
        name = name or f"{_slug(study.study.name)}-{now:%Y%m%d-%H%M%S-%f}"
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise OptionError(
                f"{name!r} is no possible name of a run", todo="use letters, digits, dots, dashes"
            )
        run = RunFolder(self._folder / name)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            run.folder.mkdir(mode=0o700)
        except FileExistsError:
            raise OptionError(
                f"there is a run {name} already", todo="give another name, or resume that run"
            ) from None
        values = study.model_dump(mode="json", exclude_none=True)
        write_durably(run.folder / "study.json", document)
        write_durably(run.folder / "study.toml", tomli_w.dumps(values).encode())
        record = RunRecord(
            name=name,
            title=study.study.name,
            study=study.digest(),
            seed=seed,
            roster=roster,
            created=now.isoformat(timespec="microseconds"),
            wants=wants,
            of=of,
        )
        write_durably(run.folder / "run.json", _json(record.model_dump()))  # last: now it is one
        return run

    def list(self, tell: Callable[[DataError], None] = lambda error: None) -> list[RunRecord]:
        """Every run, the oldest first; a folder that never became one is left out.

        Args:
            tell: Called with each run that cannot be read: the others are listed all the same.
        """
        found = []
        for file in sorted(self._folder.glob("*/run.json")):
            try:
                found.append(RunFolder(file.parent).record)
            except DataError as error:
                tell(error)
        return sorted(found, key=lambda record: record.created)

    def get(self, name: str) -> RunFolder:
        """One run.

        Raises:
            OptionError: There is none of this name.
        """
        if not _NAME.fullmatch(name) or not (self._folder / name / "run.json").is_file():
            raise OptionError(f"there is no run {name}", todo="see fedward aggregator runs")
        return RunFolder(self._folder / name)

    def set_roster(self, document: bytes) -> None:
        """Say who may take part in all runs from their next exchange on.

        Args:
            document: Checked before against the coordinator's key.

        Raises:
            RunPaused: The disk does not take it.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._folder / "roster.json", document)


def line_of(event: Event) -> dict[str, Any]:
    """An event as JSON values: without the model, and without what others already say."""
    if isinstance(event, Outcome):
        kept = {"test": event.test, "validation": event.validation, "seconds": event.seconds}
        return {"event": "Outcome", **kept}
    return {"event": type(event).__name__, **asdict(event)}


def _no_roster(path: Path, why: str) -> DataError:
    return DataError(
        f"does not say who may take part ({why})",
        todo="install the consortium's roster again",
        where=str(path),
    )


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "run"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
