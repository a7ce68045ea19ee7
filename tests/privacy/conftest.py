"""Hospitals with real keys and real journals, and where a ledger may go."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fedward.privacy.advert import Advert, RunKey, make_advert
from fedward.privacy.identity import Identity
from fedward.privacy.journal import Journal
from fedward.privacy.roster import Roster
from fedward.privacy.secure_hospital import SecureHospital, Trust
from fedward.privacy.secure_messages import Attempt, Masked

STUDY = "5d" * 32
RUN = "run-1"
TOLD = b"\x07" * 32
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Nearby(Trust):
    """Terms with neighbourhoods of `near` hospitals, however few are invited.

    All colluders may stand in one neighbourhood.
    """

    near: int = 65

    def threshold(self, invited: int) -> int:
        return (min(self.near, invited) + self.colluding + self.min_honest - 1) // 2 + 1

    def neighbourhood(self, invited: int) -> int:
        return min(self.near, invited)


class Forgetful(Journal):
    """A journal that forgets over whom a round was asked before."""

    def begin(
        self,
        *,
        run: str,
        server_round: int,
        attempt: int,
        context: bytes,
        told: bytes,
        invited: bytes,
    ) -> None:
        super().begin(
            run=run,
            server_round=server_round,
            attempt=attempt,
            context=context,
            told=told,
            invited=b"always the same" if invited else b"",
        )


class Consortium:
    """Hospitals a, b, c, ... with real keys, and a folder for their journals.

    Attributes:
        names: Of all members, sorted.
        identities: Each member's.
        keys: Each member's run key.
        roster: All members.
    """

    def __init__(
        self, folder: Path, size: int, trust: Trust, *, journal: type[Journal] = Journal
    ) -> None:
        self._journal = journal
        self.names = names_of(size)
        self.identities = {name: self._identity(name) for name in self.names}
        self.keys = {name: self._key(name) for name in self.names}
        self.roster = Roster(1, {name: self.identities[name].public for name in self.names})
        self.trust = trust
        self.threshold = trust.threshold(size)
        self.folder = folder
        self._hospitals: dict[str, SecureHospital] = {}

    def __getitem__(self, name: str) -> SecureHospital:
        """The hospital itself, the same object each time."""
        if name not in self._hospitals:
            self._hospitals[name] = self.hospital(name, self.journal_file(name))
        return self._hospitals[name]

    def hospital(self, name: str, journal_file: Path) -> SecureHospital:
        """A hospital with the member's keys and this journal."""
        return SecureHospital(
            name=name,
            identity=self.identities[name],
            run_key=self.keys[name],
            roster=self.roster,
            trust=self.trust,
            journal=self._journal(journal_file),
        )

    def twin(self, name: str) -> SecureHospital:
        """The hospital as it is now, with a copy of its journal: what it says binds nobody."""
        copy_file = self.folder / f"{name}.{len(list(self.folder.iterdir()))}.copy"
        shutil.copy(self.journal_file(name), copy_file)
        return self.hospital(name, copy_file)

    def journal_file(self, name: str) -> Path:
        return self.folder / f"{name}.journal"

    def adverts(
        self, names: Iterable[str] | None = None, *, study: str = STUDY, run: str = RUN
    ) -> tuple[Advert, ...]:
        return tuple(
            make_advert(self.identities[name], self.keys[name], study=study, run=run, hospital=name)
            for name in (self.names if names is None else names)
        )

    def attempt(
        self,
        names: Iterable[str] | None = None,
        *,
        study: str = STUDY,
        run: str = RUN,
        number: int = 1,
        server_round: int = 1,
        told: bytes = TOLD,
    ) -> Attempt:
        adverts = self.adverts(names, study=study, run=run)
        return Attempt(study, run, server_round, number, told, adverts)

    def mask(self, attempt: Attempt, data: Mapping[str, Words]) -> dict[str, Masked]:
        """What the hospitals named in `data` answer; their data stays as it is."""
        return {name: self[name].mask(attempt, words.copy()) for name, words in data.items()}

    @staticmethod
    def _identity(name: str) -> Identity:
        secret = hashlib.sha256(b"identity" + name.encode()).digest()
        return Identity(Ed25519PrivateKey.from_private_bytes(secret))

    @staticmethod
    def _key(name: str) -> RunKey:
        secret = hashlib.sha256(b"run key" + name.encode()).digest()
        return RunKey(X25519PrivateKey.from_private_bytes(secret))


def names_of(size: int) -> tuple[str, ...]:
    """So many names, sorted: a, b, c, ..., or h000, h001, ... if there are more than letters."""
    if size <= 26:
        return tuple("abcdefghijklmnopqrstuvwxyz"[:size])
    return tuple(f"h{number:03}" for number in range(size))


@contextmanager
def consortium_of(size: int, *, colluding: int = 0, min_honest: int = 2) -> Iterator[Consortium]:
    """A consortium whose folder lives as long as the block."""
    with fast_folder() as folder:
        yield Consortium(folder, size, Trust(colluding, min_honest))


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: a journal waits for the disk at every answer."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it has a name of its own
    where = memory if os.access(memory, os.W_OK) else None
    with TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


def random_words(seed: int, size: int) -> Words:
    """Any words at all; the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)


def plain_sum(vectors: Iterable[Words], size: int) -> Words:
    """The sum modulo 2**32, through wider integers than the code's."""
    total = np.zeros(size, dtype=np.uint64)
    for vector in vectors:
        total += vector
    return (total % 2**32).astype(np.uint32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a new ledger may go."""
    return tmp_path / "state" / "ledger.sqlite"
