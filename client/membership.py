"""What makes a hospital a member of a consortium, read from its own files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedward.client.hospital import HospitalFile
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import ProtocolError
from fedward.privacy.roster import Roster, read_roster
from fedward.study.errors import DataError, RefusedError


@dataclass(frozen=True)
class Membership:
    """A hospital's name and key, and who else is a member."""

    name: str
    identity: Identity
    roster: Roster


def read_membership(hospital: HospitalFile, folder: Path) -> Membership:
    """The membership that a hospital file points to.

    Args:
        hospital: The file's content.
        folder: The folder of that file, which its paths are relative to.

    Raises:
        RefusedError: The hospital is in no consortium.
        DataError: The roster or the key cannot be used, or they do not fit each other.
    """
    if hospital.consortium is None:
        raise RefusedError(
            "this hospital is in no consortium, and the study's sums are secure",
            todo="enter [consortium] in hospital.toml",
        )
    path = folder / hospital.consortium.roster
    try:
        roster = read_roster(path.read_bytes(), bytes.fromhex(hospital.consortium.coordinator))
    except OSError as error:
        raise _unusable(path, f"it cannot be read: {error.strerror}") from None
    except ProtocolError as error:
        raise _unusable(path, error.what) from None
    identity = Identity.load(folder / hospital.consortium.identity)
    if roster.members.get(hospital.name) != identity.public:
        raise _unusable(path, f"it does not name {hospital.name!r} with this hospital's key")
    return Membership(hospital.name, identity, roster)


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"no roster for this hospital ({why})",
        todo="ask the coordinator for the roster, and compare its key by telephone",
        where=str(path),
    )
