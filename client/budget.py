"""What a hospital's privacy budget came to: read from its ledger, for people and for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward.client.hospital import HospitalFile
from fedward.models.registry import read_settled
from fedward.privacy.accounting import epsilon_of
from fedward.privacy.ledger import Entry, Ledger
from fedward.study.errors import BudgetError, InputError


@dataclass(frozen=True)
class Spent:
    """What was spent of one data set.

    Attributes:
        data: Its name.
        study: The study's name if its file is still approved here, else the start of its digest;
            `all` for everything together.
        rounds: Charges.
        epsilon: Composed over these charges.
        delta: At which.
        cap: What the hospital allows over all studies; None if it set no limit, or for one study.
    """

    data: str
    study: str
    rounds: int
    epsilon: float
    delta: float
    cap: float | None = None

    @property
    def left(self) -> float | None:
        """What may still be spent; None without a cap. Epsilons do not add up: it is a guide."""
        return None if self.cap is None else max(0.0, self.cap - self.epsilon)


def open_ledger(hospital: HospitalFile, folder: Path) -> Ledger:
    """The hospital's ledger; it is not made if it is not there.

    Raises:
        BudgetError: Nothing was ever charged, or what was charged is gone.
    """
    path = folder / hospital.state / "ledger.sqlite"
    if not path.exists() and not path.with_name(f"{path.name}.begun").exists():
        raise BudgetError(
            "no ledger: nothing was ever charged here", todo="check --hospital", where=str(path)
        )
    return Ledger(path)


def spent(hospital: HospitalFile, folder: Path) -> list[Spent]:
    """A row for each study on each data set, and one for each data set as a whole.

    Raises:
        BudgetError: There is no ledger, or its chain is broken.
    """
    return _totals(open_ledger(hospital, folder).entries(), hospital, folder)


def _totals(entries: Sequence[Entry], hospital: HospitalFile, folder: Path) -> list[Spent]:
    names = _names(folder / hospital.studies)
    rows = []
    for data in dict.fromkeys(entry.charge.data for entry in entries):
        here = [entry for entry in entries if entry.charge.data == data]
        for digest in dict.fromkeys(entry.charge.study for entry in here):
            some = [entry for entry in here if entry.charge.study == digest]
            rows.append(_row(data, names.get(digest, digest[:12]), some, hospital, cap=None))
        rows.append(_row(data, "all", here, hospital, cap=hospital.limits.epsilon))
    return rows


def exported(hospital: HospitalFile, folder: Path) -> dict[str, Any]:
    """The whole ledger with its totals, for a file.

    Raises:
        BudgetError: There is no ledger, or its chain is broken.
    """
    entries = open_ledger(hospital, folder).entries()
    return {
        "hospital": hospital.name,
        "charges": [_document(entry) for entry in entries],
        "totals": [vars(row) for row in _totals(entries, hospital, folder)],
    }


def _row(
    data: str, study: str, entries: list[Entry], hospital: HospitalFile, *, cap: float | None
) -> Spent:
    delta = hospital.limits.delta or min(entry.charge.delta for entry in entries)
    accountant = entries[-1].charge.accountant
    epsilon = epsilon_of([entry.charge.steps for entry in entries], delta, accountant)
    return Spent(data, study, len(entries), epsilon, delta, cap)


def _document(entry: Entry) -> dict[str, Any]:
    charge = {k: v for k, v in vars(entry.charge).items() if k != "steps"}
    steps = entry.charge.steps._asdict()
    return {
        **charge,
        **steps,
        "charged_at": entry.charged_at,
        "hash": entry.hash,
    }


def _names(folder: Path) -> dict[str, str]:
    names = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            study = read_settled(path)
        except InputError:
            continue  # no approval, and so no name
        names[study.digest()] = study.study.name
    return names
