"""All that a hospital's page shows, from its daemon and its files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedward.client.auditing import LOG
from fedward.client.control import ControlClient, NotRunning
from fedward.client.control_pb2 import StatusReply
from fedward.client.hospital import HospitalFile, read_hospital
from fedward.client.membership import consortium_of
from fedward.client.offers import Known, known_studies
from fedward.client.page.processors import Machine, this_machine, unknown_machine
from fedward.client.page.remembered import Remembered, stamp_of
from fedward.client.spent_apart import spent_apart
from fedward.client.study_words import Asked, asked_by
from fedward.privacy.audit_log import BrokenLog, Line
from fedward.privacy.audit_log import verify as verify_log
from fedward.privacy.identity import Identity
from fedward.privacy.log_head import head_of
from fedward.study.errors import FedwardError

_LEDGER = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite.begun")
_SECONDS = 60.0  # to compose what was spent
_PAUSE = 5.0  # between two times
_NEWEST = 50  # lines of the audit log
_PATIENCE = 3.0  # seconds for the daemon to say how it stands
_TRIES = 3  # the daemon may write a line between two looks


class Studied(NamedTuple):
    """A study that was offered or approved, in plain words."""

    digest: str
    name: str
    title: str
    approved: str
    asked: list[Asked]


class Bar(NamedTuple):
    """What was spent.

    Attributes:
        data: Name of the data set.
        study: A study's name, or `all`.
        rounds: Charges.
        epsilon: Over these charges.
        delta: At which.
        cap: What the hospital allows; None without a limit.
    """

    data: str
    study: str
    rounds: int
    epsilon: float
    delta: float
    cap: float | None


class Budget(NamedTuple):
    """What was spent of the patients' privacy, or why that is not known."""

    bars: list[Bar]
    trouble: str = ""


class Audit(NamedTuple):
    """The audit log, every line of it checked.

    Attributes:
        lines: How many there are.
        newest: The last ones, the newest first.
        trouble: The first line that does not fit, and why; empty if all do.
    """

    lines: int
    newest: Sequence[Line]
    trouble: str = ""


class View(NamedTuple):
    """One look at a hospital. What takes long is None until it was found out.

    Attributes:
        hospital: Its file.
        status: What the daemon says; None if none runs, or that is not known.
        status_known: Whether it is known whether a daemon runs.
        studies_known: Whether studies could be read; if not, none is named here.
        offered: Studies that wait.
        approved: Studies that may train.
        budget: What was spent.
        audit: The audit log.
        machine: This machine.
        trouble: A sentence for each thing that could not be found out.
    """

    hospital: HospitalFile
    status: StatusReply | None
    status_known: bool
    studies_known: bool
    offered: list[Studied]
    approved: list[Studied]
    budget: Budget | None
    audit: Audit | None
    machine: Machine | None
    trouble: list[str]


class Looking:
    """Looks at a hospital again and again.

    Args:
        path: Its `hospital.toml`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._budget = Remembered(self._spent, lambda why: Budget([], why), pause=_PAUSE)
        self._audit = Remembered(self._audited, lambda why: Audit(0, [], why), pause=_PAUSE)
        self._machine = Remembered(this_machine, unknown_machine, pause=_PAUSE)
        self._studies: tuple[object, list[Studied]] | None = None

    def look(self) -> View:
        """How the hospital stands now.

        Raises:
            InputError: Its file cannot be used.
        """
        hospital = read_hospital(self._path)
        state = self._path.parent / hospital.state
        ledger = [state / name for name in _LEDGER]
        trouble: list[str] = []
        status, status_known = None, True
        try:
            status = self._status()
        except FedwardError as error:
            trouble.append(error.line())
            status_known = False
        studies, studies_known = list[Studied](), True
        try:
            studies = self._known(hospital)
        except FedwardError as error:
            trouble.append(error.line())
            studies_known = False
        return View(
            hospital=hospital,
            status=status,
            status_known=status_known,
            studies_known=studies_known,
            offered=[one for one in studies if not one.approved],
            approved=[one for one in studies if one.approved],
            budget=self._budget.value(stamp_of([*ledger, self._path])),
            audit=self._audit.value(stamp_of([state / LOG, head_of(state / LOG)])),
            machine=self._machine.value((time.monotonic() // _PAUSE,)),
            trouble=trouble,
        )

    def _status(self) -> StatusReply | None:
        try:
            with ControlClient(self._path, seconds=_PATIENCE) as client:
                return client.status()
        except NotRunning:
            return None

    def _known(self, hospital: HospitalFile) -> list[Studied]:
        """Studies are read again when a file of theirs changes."""
        folder = self._path.parent / hospital.studies
        files = sorted([*folder.glob("*.toml"), *folder.glob("offered/*.json")])
        stamp = (stamp_of([*files, self._path]), len(files))
        if self._studies is None or self._studies[0] != stamp:
            known = known_studies(hospital, folder)
            self._studies = stamp, [_studied(one, hospital) for one in known]
        return self._studies[1]

    def _spent(self) -> Budget:
        hospital = read_hospital(self._path)
        state, limits = self._path.parent / hospital.state, hospital.limits
        if not any((state / name).exists() for name in _LEDGER):
            delta = limits.delta or 0.0
            return Budget([Bar(hospital.data.name, "all", 0, 0.0, delta, limits.epsilon)])
        try:
            rows = spent_apart(self._path, seconds=_SECONDS)
        except FedwardError as error:
            return Budget([], error.line())
        return Budget([Bar(**row) for row in rows])

    def _audited(self) -> Audit:
        hospital = read_hospital(self._path)
        path = self._path.parent / hospital.state / LOG
        if not path.exists() and not head_of(path).exists():
            return Audit(0, [])
        try:
            identity = Identity.load(self._path.parent / consortium_of(hospital).identity)
            lines = _verified(path, identity.public)
        except FedwardError as error:
            return Audit(0, [], error.line())
        return Audit(len(lines), lines[: -_NEWEST - 1 : -1])


def _verified(path: Path, public: bytes) -> list[Line]:
    """Every line; what looks broken is looked at again, for the daemon may be writing."""
    for _ in range(_TRIES - 1):
        try:
            return verify_log(path, public, own=True)
        except BrokenLog:
            time.sleep(0.2)
    return verify_log(path, public, own=True)


def _studied(known: Known, hospital: HospitalFile) -> Studied:
    return Studied(
        digest=known.digest,
        name=known.study.study.name,
        title=known.study.study.title,
        approved="" if known.approved is None else known.approved.name,
        asked=list(asked_by(known.study, known.digest, hospital.limits)),
    )
