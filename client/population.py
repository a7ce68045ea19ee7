"""Who a hospital trains on, as one digest that tells nobody else anything.

A run must end with the patients that it began with. The ledger, which may be exported, holds a
digest of them for that; without a key it would be an oracle, for whoever guesses all records but
one patient's could try whether the digest fits. The key stays at the hospital.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np

from fedward.client.data.records import Records
from fedward.client.data.stored import Stored, in_pieces
from fedward.privacy.framing import framed
from fedward.privacy.key_file import read_secret
from fedward.privacy.secret_file import write_secret
from fedward.study.errors import DataError

_KEY = "population.key"
_LENGTH = 32
_MASKS = 64  # that are made wide at once


def population_digest(records: Records, state: Path, *judging: Records) -> str:
    """Digest of records: contents, labels and whose they are, hexadecimal.

    Args:
        records: To train on, on the CPU.
        state: The hospital's folder of state, where the key is kept or made.
        judging: To judge on, on the CPU, where that has noise and so one population too.

    Raises:
        DataError: The key cannot be read or made.
    """
    digest = hmac.new(_key(state / _KEY), digestmod=hashlib.sha256)
    for part in (records, *judging):
        for rows in (part.inputs, part.labels, part.patients):
            kind = (
                rows.dtype if isinstance(rows, Stored) else str(rows.dtype).removeprefix("torch.")
            )
            masks = str(kind) == "uint8"  # counts as the int64 that it once was, in runs begun then
            digest.update(framed("int64" if masks else str(kind), str(tuple(rows.shape))))
            if masks:
                for few in rows.split(_MASKS):
                    digest.update(few.numpy().astype(np.int64).data)
                continue
            for piece in in_pieces(rows):
                digest.update(piece.data)
        digest.update(framed(part.people))
    return digest.hexdigest()


def _key(path: Path) -> bytes:
    """The key in a file; one is made where there is none."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process was quicker: its key counts
                write_secret(path, secrets.token_bytes(_LENGTH))
        key = read_secret(path)
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from None
    if len(key) != _LENGTH:
        raise _unusable(path, f"it has {len(key)} bytes")
    return key


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"not usable as the key of the training patients' digest ({why})",
        todo="restore it, or delete it and start new runs",
        where=str(path),
    )
