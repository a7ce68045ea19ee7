"""The folder in which a service keeps what it has counted, for its owner alone."""

from __future__ import annotations

import fcntl
import json
import os
from glob import escape
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from fedward.privacy.whole_file import OWNERS, write_whole
from fedward.study.errors import DataError, OptionError, StudyError
from fedward.study.frozen import Fault, Frozen, validate
from fedward.study.study import Study, parse_study

_Kind = TypeVar("_Kind", bound=BaseModel)
_FOLDERS = 0o700


class About(Frozen):
    """What is known of a watched model, for whoever reads its counts later.

    Attributes:
        format: Of the file.
        study: The study's tables.
        digest: The study's.
        threshold: Probability from which a finding is called.
        fewest: Fewer than so many records are not spoken of.
        judged: The model's test metrics when it was judged.
        kept_days: For which answers are kept; None if none are, or it is not known.
        unwatched: Histograms of which nothing is known to compare with.
    """

    format: Literal[1] = 1
    study: dict[str, Any]
    digest: str
    threshold: float
    fewest: int
    judged: dict[str, float] = Field(default_factory=dict)
    kept_days: float | None = None
    unwatched: tuple[str, ...] = ()

    def contract(self, where: str) -> Study:
        """The study.

        Raises:
            DataError: It does not hold with this version of Fedward.
        """
        try:
            return parse_study(self.study)
        except StudyError as error:
            raise DataError(
                f"holds a study that does not hold here ({error.line()})",
                todo="use the version of Fedward that serves the model",
                where=where,
            ) from None


class Figures(Frozen):
    """What labels that came later say of the model.

    Attributes:
        records: With a label and a kept answer, in steps of as many as may be spoken of; 0 if they
            are fewer.
        metrics: By name, in steps of 0.01.
    """

    records: int
    metrics: dict[str, float]


class Watched:
    """The files of one model.

    Args:
        folder: With those of all models.
        name: The model's.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._lock: int | None = None
        self.about = folder / f"{name}.about.json"
        self.counts = folder / f"{name}.counts.json"
        self.figures = folder / f"{name}.figures.json"
        self.judged = folder / f"{name}.judged"
        self.scores = folder / f"{name}.scores.sqlite"

    def take(self) -> None:
        """Make the folder, and see that no other process counts into it.

        Raises:
            OptionError: Another does, or it cannot be made.
        """
        folder = self.counts.parent
        try:
            folder.mkdir(mode=_FOLDERS, parents=True, exist_ok=True)
            lock = os.open(
                self.counts.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, OWNERS
            )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise OptionError(
                    "another service counts there",
                    todo="give another --watch-state, or stop that service",
                    where=str(folder),
                ) from None
            self._lock = lock
            for path in (self.about, self.counts):
                for left in folder.glob(f".{escape(path.name)}.*"):  # by a process that was killed
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise OptionError(
                f"cannot be used ({error.strerror})",
                todo="give another --watch-state",
                where=str(folder),
            ) from None

    def give_back(self) -> None:
        """Let another process count here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def models_in(folder: Path) -> list[str]:
    """The models that are watched in a folder.

    Raises:
        OptionError: None is.
    """
    found = sorted(path.name.removesuffix(".about.json") for path in folder.glob("*.about.json"))
    if not found:
        raise OptionError(
            "no model is watched there",
            todo="give the folder of fedward serve --watch-state",
            where=str(folder),
        )
    return found


def write(path: Path, document: BaseModel) -> None:
    """Replace a file: whole or not at all.

    Raises:
        OSError: It cannot be written; the old content is still there.
    """
    content = json.dumps(document.model_dump(mode="json"), allow_nan=False)
    write_whole(path, content.encode() + b"\n", mode=OWNERS)


def read(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Read what `write` wrote; None if there is nothing.

    Raises:
        DataError: It is damaged.
    """
    found: _Kind | Fault
    try:
        found = validate(kind, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        found = Fault("the whole file", type(error).__name__, "what fedward serve writes")
    if isinstance(found, Fault):
        raise DataError(
            f"cannot be read ({found.key})",
            todo="put it back from a copy, or delete it to begin anew",
            where=str(path),
        )
    return found
