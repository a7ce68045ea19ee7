"""Who counts what a served model sees and says, beside its answers."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.clinic.watching.cells import histograms_of, placed
from fedward.clinic.watching.counts import Counts, Kept
from fedward.clinic.watching.drift import Drift, drift_of
from fedward.clinic.watching.folder import About, Figures, Watched, read, write
from fedward.clinic.watching.kept_scores import TIDY, Bounds, KeptScores
from fedward.clinic.watching.reference import FEWEST, Reference
from fedward.study.errors import DataError, OptionError
from fedward.study.scaling import Scaling
from fedward.study.study import Study
from fedward.study.task import ClassTask, MultilabelTask, RegressionTask

_LOG = logging.getLogger("fedward.serving")
_SAVE = 1.0  # seconds from a count to the disk, at most
_WAITING = 128 << 20  # bytes of records that wait to be counted
_BESIDE = 1024  # bytes of a record beside its numbers: its id, and what Python needs


class Model(NamedTuple):
    """A served model, as far as it is watched.

    Attributes:
        name: That requests have for it.
        study: Of which it is.
        scaling: The constants that its run measured; None if it measured none.
        threshold: Probability from which a finding is called.
        weights: SHA-256 of the run's model file that it was exported from; None if not known.
    """

    name: str
    study: Study
    scaling: Scaling | None
    threshold: float
    weights: str | None = None


class _Seen(NamedTuple):
    inputs: NDArray[Any]
    outputs: NDArray[Any]
    ids: Sequence[str]

    @property
    def bytes(self) -> int:
        return int(self.inputs.nbytes + self.outputs.nbytes) + _BESIDE * len(self.inputs)


class Watch:
    """Counts in a thread of its own, and writes what it has counted every second.

    A process that is killed forgets what it saw within the last second, and nothing else.

    Args:
        model: That is watched.
        reference: What it is compared with.
        folder: Where counts are kept; nobody else may read it.
        window: Records after which older ones begin to be forgotten.
        keep: How many answers are kept for labels that come later; None for none.

    Raises:
        DataError: The reference is not the model's, or a file in the folder is damaged.
        OptionError: The folder cannot be used, or has counts for another reference; or answers of
            the model's task cannot be kept.
    """

    def __init__(
        self,
        model: Model,
        reference: Reference,
        folder: Path,
        *,
        window: int = 1000,
        keep: Bounds | None = None,
    ) -> None:
        self.name, self._study = model.name, model.study
        try:
            known = reference.of(model.study)
        except ValueError as error:
            raise DataError(
                f"the reference {error}", todo=f"give the one of model {model.name}"
            ) from None
        if not reference.is_of(model.study.digest(), model.weights):
            raise DataError(
                "the reference is of another run's model, though of the same study",
                todo=f"give the one that fedward reference made of the run of {model.name}",
            )
        if keep is not None:
            refuse_unkept(model.study)
        everything = histograms_of(model.study, model.scaling)
        self._histograms = tuple(
            h for h in everything if (h.kind, h.name) in known and known[h.kind, h.name].known
        )
        self._expected = [known[h.kind, h.name] for h in self._histograms]
        if not self._histograms:
            raise DataError(
                f"the reference knows nothing of what {model.name} sees or says",
                todo="make one with fedward reference",
            )
        unwatched = [f"{h.kind} {h.name}" for h in everything if h not in self._histograms]
        self._fewest = max(reference.fewest, FEWEST)
        self._digest = hashlib.sha256(reference.document()).hexdigest()
        cells = [h.cells for h in self._histograms]
        self._counts = Counts(cells, window=max(window, self._fewest), step=self._fewest)
        self.shown: tuple[Drift, ...] = ()
        self.files = Watched(folder, model.name)
        self.files.take()
        try:
            self._go_on()
            self._scores = None if keep is None else KeptScores(self.files.scores, keep)
            write(self.files.about, _about(model, reference, self._fewest, unwatched, keep))
        except OSError as error:
            self.files.give_back()
            raise OptionError(
                f"cannot be written ({error.strerror})",
                todo="give another --watch-state",
                where=str(folder),
            ) from None
        except BaseException:
            self.files.give_back()
            raise
        self._queue: queue.SimpleQueue[_Seen | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._missed = 0
        self._dirty = False
        self._due = False  # to compare
        self._said: list[tuple[str, NDArray[np.float64]]] = []  # to keep
        self._until = math.inf
        self._failed: dict[str, str] = {}  # why, by what cannot be done
        self._counted = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"watch {model.name}", daemon=True)
        self._thread.start()

    @property
    def keeps(self) -> bool:
        """Whether answers are kept under their ids."""
        return self._scores is not None

    @property
    def missed(self) -> int:
        """Records that came faster than they could be counted."""
        return self._counts.missed + self._missed

    @property
    def works(self) -> bool:
        """Whether it counts, compares, writes and reads; if not, what is shown is old."""
        return self._thread.is_alive() and not self._failed

    @property
    def idle(self) -> float:
        """Seconds since a record was counted, or since the beginning."""
        return time.monotonic() - self._counted

    def id_for(self, given: str) -> str:
        """The id of an answer: the sender's, or a random one if the sender gave none."""
        return given or (secrets.token_hex(16) if self.keeps else "")

    def saw(self, inputs: NDArray[Any], outputs: NDArray[Any], name: str = "") -> None:
        """Count records, soon; nobody waits for that.

        Args:
            inputs: As the model sees them, shape (n, ...).
            outputs: What it says of them, shape (n, ...).
            name: Id of the answer.
        """
        seen = _Seen(inputs, outputs, ids_of(name, len(inputs)) if self.keeps and name else ())
        with self._lock:
            if self._waiting and self._waiting + seen.bytes > _WAITING:
                self._missed += len(inputs)
                return
            self._waiting += seen.bytes
        self._queue.put(seen)

    def figures(self) -> Figures | None:
        """What labels that came later say, as far as somebody asked; None if nobody did.

        A file that is damaged is said once, and shown as none.
        """
        found: list[Figures | None] = []
        self._tried("read what labels say", lambda: found.append(read(self.files.figures, Figures)))
        return found[0] if found else None

    def close(self, within: float = 60.0) -> None:
        """Count what has come, write it, and count no more.

        Args:
            within: Seconds; what is not counted in half of them is missed.
        """
        self._until = time.monotonic() + within / 2
        self._queue.put(None)
        self._thread.join(within)
        if self._thread.is_alive():  # the process ends, and it with it
            self._tell("end the counting", f"in {within:.0f} s")
            return
        if self._scores is not None:
            self._scores.close()
        self.files.give_back()

    def _go_on(self) -> None:
        kept = read(self.files.counts, Kept)
        if kept is None:
            return
        if kept.reference != self._digest:
            raise OptionError(
                f"has counts of {self.name} for another reference",
                todo="give another --watch-state, or delete that model's files there",
                where=str(self.files.counts.parent),
            )
        try:
            self._counts.restore(kept)
        except ValueError as error:
            raise DataError(
                str(error), todo="delete it to begin anew", where=str(self.files.counts)
            ) from None
        self.shown = kept.shown

    def _work(self) -> None:
        saved = time.monotonic()
        while True:
            ended, seen = False, None
            patience = TIDY if self.keeps else None
            with contextlib.suppress(queue.Empty):
                seen = self._queue.get(timeout=_SAVE if self._dirty else patience)
                ended = seen is None
            if seen is not None:
                self._count(seen)
            due = ended or time.monotonic() - saved >= _SAVE
            if due or self._queue.empty():
                self._tried("keep answers", self._keep)
            if ended or (due and self._dirty):
                self._save()
                saved = time.monotonic()
            if ended:
                return

    def _count(self, seen: _Seen) -> None:
        with self._lock:
            self._waiting -= seen.bytes
        self._dirty = True
        late = time.monotonic() >= self._until
        if late or not self._tried("count a record", lambda: self._add(seen)):
            with self._lock:
                self._missed += len(seen.inputs)
            return
        self._counted = time.monotonic()
        if self._due:
            self._due = not self._tried("compare what was counted", self._show)
        if seen.ids:
            said = seen.outputs.astype(np.float64).reshape(len(seen.outputs), -1)
            self._said += zip(seen.ids, said, strict=True)

    def _add(self, seen: _Seen) -> None:
        cells = placed(self._histograms, self._study, seen.inputs, seen.outputs)
        self._due |= self._counts.add(cells)

    def _keep(self) -> None:
        """All answers that came since the last time, at once; and see to those of long ago."""
        some, self._said = self._said, []
        if self._scores is None:
            return
        if some:
            self._scores.keep([name for name, _ in some], [said for _, said in some])
        self._scores.tidy_when_due()

    def _show(self) -> None:
        each = zip(self._expected, self._counts.lately(), strict=True)
        before = {(drift.kind, drift.name) for drift in self.shown if drift.alarm}
        count = len(self._histograms)
        self.shown = tuple(drift_of(expected, seen, histograms=count) for expected, seen in each)
        for drift in self.shown:
            if drift.alarm and (drift.kind, drift.name) not in before:
                _LOG.warning(
                    "model %s: the %s %r is not what it was trained on (PSI %.2f)",
                    *(self.name, drift.kind, drift.name, drift.psi),
                )

    def _save(self) -> None:
        with self._lock:
            self._counts.missed, self._missed = self._counts.missed + self._missed, 0

        def act() -> None:
            write(self.files.counts, self._counts.kept(self._digest, self.shown))

        if self._tried("write what was counted", act):
            self._dirty = False

    def _tried(self, doing: str, act: Callable[[], None]) -> bool:
        """Whether it could be done; if not, that is said once, and counting goes on."""
        try:
            act()
        except Exception as error:  # its words may quote a record
            known = isinstance(error, OSError) and error.strerror
            self._tell(doing, known or type(error).__name__)
            return False
        self._failed.pop(doing, None)
        return True

    def _tell(self, doing: str, why: str) -> None:
        if self._failed.get(doing) != why:
            _LOG.error("model %s: cannot %s (%s)", self.name, doing, why)
        self._failed[doing] = why


def ids_of(name: str, records: int) -> list[str]:
    """Ids of the records of one answer: the answer's own, with a number where there are several."""
    return [name] if records == 1 else [f"{name}/{number}" for number in range(records)]


def refuse_unkept(study: Study) -> None:
    """Accept a task whose answers can be judged later from a few numbers, by returning.

    Raises:
        OptionError: They cannot.
    """
    if not isinstance(study.task, ClassTask | MultilabelTask | RegressionTask):
        raise OptionError(
            f"answers of a {study.task.kind} task are not kept", todo="leave out --keep-scores"
        )


def _about(
    model: Model, reference: Reference, fewest: int, unwatched: list[str], keep: Bounds | None
) -> About:
    return About(
        study=model.study.model_dump(mode="json", exclude={"simulation"}, exclude_none=True),
        digest=model.study.digest(),
        threshold=model.threshold,
        fewest=fewest,
        judged=reference.judged,
        kept_days=None if keep is None else keep.days,
        unwatched=tuple(unwatched),
    )
