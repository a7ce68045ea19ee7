"""Where a run is, on disk after every exchange, whole at whatever instant the process is killed.

    checkpoint/
    ├── after-000007/          state.json and state.safetensors
    ├── after-000008/          the latest; the one before it is kept too
    └── asked.json             what was asked since (`asked`)

A checkpoint is written to a folder of another name, forced to the disk, and then renamed: a folder
that is called `after-...` is whole. Only the process of the run writes here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedward.models.tasks.any_task import Sums
from fedward.privacy.whole_file import OWNERS, keep_names, write_to_disk
from fedward.server.durable import cannot_write
from fedward.server.events import Refused, RoundFinished, RoundLost
from fedward.study.errors import DataError
from fedward.study.messages import Part, Refusal, Vector
from fedward.study.scaling import Scaling

_VERSION = 1
_KEPT = 2
_WHOLE = re.compile(r"after-(\d{6,})")
_ASIDE = "new"
_PARTS: tuple[Part, ...] = ("validation", "test")


class Best(NamedTuple):
    """The best model so far, of a study that stops early.

    Attributes:
        rounds: After which it was.
        value: Its metric on the validation part.
        waited: Measured rounds since then that brought no improvement.
        model: Shape (d,), float32.
        sums: That the metric is of.
    """

    rounds: int
    value: float
    waited: int
    model: Vector
    sums: Sums


@dataclass(frozen=True)
class Checkpoint:
    """A run after an exchange.

    Attributes:
        study: Digest of the study.
        run: Name of the run, as hospitals know it.
        seed: Of the run.
        exchange: The last that is over: 0 before the first round, a round, or a judging round.
        model: Shape (d,), float32.
        optimizer: What the server's optimizer remembers.
        rounds: Each round so far.
        refusals: The newest refusals, in the order in which they came.
        judged: Metric sums of the final model; None for a part that could not be judged.
        scaling: What was measured before the first round; None before that, and in a study that
            measures nothing.
        counted: Each hospital's last round that came into a sum, by its name; only where the
            study's algorithm has to know.
        roster: Version of the consortium's roster; 0 where there is none.
        seconds: That the run has taken.
        best: The best model so far, where the study stops early.
    """

    study: str
    run: str
    seed: int
    exchange: int
    model: Vector
    optimizer: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    rounds: tuple[RoundFinished | RoundLost, ...] = ()
    refusals: tuple[Refused, ...] = ()
    judged: Mapping[Part, Sums | None] = field(default_factory=dict)
    scaling: Scaling | None = None
    counted: Mapping[str, int] = field(default_factory=dict)
    roster: int = 0
    seconds: float = 0.0
    best: Best | None = None

    @property
    def last_finished(self) -> int:
        """Number of the round that the model is of: a lost one leaves it as it was; 0 at first."""
        finished = (record.round for record in self.rounds if isinstance(record, RoundFinished))
        return max(finished, default=0)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; it is made when the first checkpoint is saved."""
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; when this returns it is on the disk, and older ones are gone.

        Raises:
            RunPaused: The disk does not take it; the latest checkpoint is the one before.
        """
        arrays, state = _packed(checkpoint)
        aside = self._folder / _ASIDE
        try:
            aside.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_to_disk(aside / "state.safetensors", arrays, mode=OWNERS)
            write_to_disk(aside / "state.json", state, mode=OWNERS)
            keep_names(aside)
            number = max(self._numbers(), default=0) + 1
            os.rename(aside, self._folder / f"after-{number:06}")
            keep_names(self._folder)
        except OSError as error:
            raise cannot_write(aside, error) from None
        for old in sorted(self._numbers())[:-_KEPT]:
            shutil.rmtree(self._folder / f"after-{old:06}", ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The last that was saved; None if none was.

        Raises:
            DataError: It is not what was written: an older one would ask hospitals to go back.
        """
        numbers = self._numbers()
        if not numbers:
            return None
        folder = self._folder / f"after-{max(numbers):06}"
        try:
            state = json.loads((folder / "state.json").read_bytes())
            arrays = (folder / "state.safetensors").read_bytes()
            if hashlib.sha256(arrays).hexdigest() != state["arrays"]:
                raise ValueError("its arrays were changed")
            return _unpacked(load(arrays), state)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"is no whole checkpoint ({' '.join(str(error).split())})",
                todo="restore it from a backup, or submit the study as a new run",
                where=str(folder),
            ) from None

    def _numbers(self) -> list[int]:
        found = (_WHOLE.fullmatch(path.name) for path in self._folder.glob("after-*"))
        return [int(match[1]) for match in found if match]


def _packed(checkpoint: Checkpoint) -> tuple[bytes, bytes]:
    arrays: dict[str, NDArray[Any]] = {"model": checkpoint.model}
    arrays |= {f"optimizer.{name}": array for name, array in checkpoint.optimizer.items()}
    sums = {part: found for part, found in checkpoint.judged.items() if found is not None}
    arrays |= {f"judged.{part}": found for part, found in sums.items()}
    best = checkpoint.best
    if best is not None:
        arrays |= {"best.model": best.model, "best.sums": best.sums}
    packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    state = {
        "version": _VERSION,
        "study": checkpoint.study,
        "run": checkpoint.run,
        "seed": checkpoint.seed,
        "exchange": checkpoint.exchange,
        "roster": checkpoint.roster,
        "seconds": checkpoint.seconds,
        "judged": list(checkpoint.judged),
        "scaling": None if checkpoint.scaling is None else asdict(checkpoint.scaling),
        "counted": dict(checkpoint.counted),
        "rounds": [packed_round(record) for record in checkpoint.rounds],
        "refusals": [asdict(refused) for refused in checkpoint.refusals],
        "best": None if best is None else [best.rounds, best.value, best.waited],
        "arrays": hashlib.sha256(packed).hexdigest(),
    }
    return packed, json.dumps(state, indent=1).encode() + b"\n"


def _unpacked(arrays: dict[str, NDArray[Any]], state: dict[str, Any]) -> Checkpoint:
    if state["version"] != _VERSION:
        raise ValueError(f"version {state['version']}, and this is for {_VERSION}")
    optimizer = {
        name.removeprefix("optimizer."): array
        for name, array in arrays.items()
        if name.startswith("optimizer.")
    }
    judged = {p: arrays.get(f"judged.{p}") for p in _PARTS if p in state["judged"]}
    return Checkpoint(
        study=str(state["study"]),
        run=str(state["run"]),
        seed=int(state["seed"]),
        exchange=int(state["exchange"]),
        model=arrays["model"],
        optimizer=optimizer,
        rounds=tuple(_round(record) for record in state["rounds"]),
        refusals=tuple(
            Refused(each["round"], Refusal(**each["refusal"])) for each in state["refusals"]
        ),
        judged=judged,
        scaling=_scaling(state.get("scaling")),  # a run that was begun before has none
        counted={str(k): int(v) for k, v in state.get("counted", {}).items()},
        roster=int(state["roster"]),
        seconds=float(state["seconds"]),
        best=_best(state.get("best"), arrays),
    )


def _best(values: list[float] | None, arrays: Mapping[str, NDArray[Any]]) -> Best | None:
    if values is None:
        return None
    rounds, value, waited = values
    return Best(int(rounds), float(value), int(waited), arrays["best.model"], arrays["best.sums"])


def _scaling(values: dict[str, list[float]] | None) -> Scaling | None:
    if values is None:
        return None
    centers, scales = (tuple(map(float, values[key])) for key in ("centers", "scales"))
    return Scaling(centers, scales)


def packed_round(record: RoundFinished | RoundLost) -> dict[str, Any]:
    """A round as JSON values."""
    return {"sum": isinstance(record, RoundFinished), **asdict(record)}


def _round(values: dict[str, Any]) -> RoundFinished | RoundLost:
    rest = {key: value for key, value in values.items() if key != "sum"}
    return RoundFinished(**rest) if values["sum"] else RoundLost(**rest)
