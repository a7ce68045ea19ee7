"""What makes a hospital a member of a consortium, read from its own files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fedward.client.hospital import Consortium, HospitalFile
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import ProtocolError
from fedward.privacy.public_file import write_public
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
    table = consortium_of(hospital)
    path = folder / table.roster
    roster = _present(path, bytes.fromhex(table.coordinator))
    identity = Identity.load(folder / table.identity)
    if roster.members.get(hospital.name) != identity.public:
        raise _unusable(path, f"it does not name {hospital.name!r} with this hospital's key")
    return Membership(hospital.name, identity, roster)


def keep_newest_roster(document: bytes, hospital: HospitalFile, folder: Path) -> None:
    """Keep a roster if it is newer than the one that is there; never go back to an older one.

    Args:
        document: Signed by the coordinator.
        hospital: Names the coordinator and the roster's file.
        folder: The folder of the hospital's file.

    Raises:
        RefusedError: The hospital is in no consortium.
        ProtocolError: The coordinator did not sign it.
        DataError: It is another one of the same version, the roster that is there cannot be read,
            or the new one not be written.
    """
    table = consortium_of(hospital)
    coordinator = bytes.fromhex(table.coordinator)
    offered = read_roster(document, coordinator)
    path = folder / table.roster
    kept = _present(path, coordinator)
    refuse_rival(offered, kept, path)
    if offered.version > kept.version:
        write_public(path, document)


def refuse_rival(offered: Roster, kept: Roster, path: Path) -> None:
    """Raise if the coordinator signed two rosters of one version: nobody can tell which counts.

    Args:
        offered: The roster that came.
        kept: The roster that is there.
        path: Where it is.

    Raises:
        DataError: They have the same version and differ.
    """
    if offered.version == kept.version and offered != kept:
        raise DataError(
            f"there are two rosters of version {kept.version}, both signed by the coordinator",
            todo="tell the coordinator: nobody can say who is a member",
            where=str(path),
        )


def roster_digest(hospital: HospitalFile, folder: Path) -> str:
    """SHA-256 of the roster's file as it is now, hexadecimal; empty where there is none.

    Args:
        hospital: The hospital's file.
        folder: The folder of that file, which its paths are relative to.

    Raises:
        DataError: The file is there and cannot be read.
    """
    if hospital.consortium is None:
        return ""
    path = folder / hospital.consortium.roster
    return hashlib.sha256(_document(path)).hexdigest() if path.exists() else ""


def consortium_of(hospital: HospitalFile) -> Consortium:
    """What a hospital's file says of its consortium.

    Raises:
        RefusedError: The hospital is in none.
    """
    if hospital.consortium is None:
        raise RefusedError(
            "this hospital is in no consortium",
            todo="enrol it with fedward hospital enroll, which writes [consortium]",
        )
    return hospital.consortium


def _present(path: Path, coordinator: bytes) -> Roster:
    try:
        return read_roster(_document(path), coordinator)
    except ProtocolError as error:
        raise _unusable(path, error.what) from None


def _document(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"it cannot be read: {error.strerror}") from None


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"no roster for this hospital ({why})",
        todo="ask the coordinator for the roster, and compare its key by telephone",
        where=str(path),
    )
