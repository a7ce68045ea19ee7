"""Studies that were offered to a hospital, and what its staff decide about them.

An offer is a document that the consortium's coordinator signed. It lies below the folder of studies
until a person approves it; the study's own file beside the others is the approval, and taking that
file away withdraws it.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fedward.client.approvals import approved_files
from fedward.client.hospital import HospitalFile
from fedward.client.membership import consortium_of
from fedward.models.registry import settled
from fedward.privacy.protocol_errors import ProtocolError
from fedward.privacy.public_file import write_public
from fedward.privacy.signed_study import read_signed_study
from fedward.study.errors import OptionError, RefusedError
from fedward.study.study import Study

_LOG = logging.getLogger("fedward.client")
_OFFERED = "offered"
_MOST = 256  # offers that wait: nobody may fill a hospital's disk


@dataclass(frozen=True)
class Known:
    """A study that was offered or approved.

    Attributes:
        study: What it says.
        digest: By which it is approved.
        approved: The file that approves it; None if it only was offered.
    """

    study: Study
    digest: str
    approved: Path | None


def file_offer(signed: bytes, digest: str, hospital: HospitalFile, folder: Path) -> None:
    """Keep an offer for a person to read.

    Args:
        signed: The document.
        digest: What the aggregator says that it is.
        hospital: Names the coordinator whose signature counts.
        folder: The hospital's folder of studies.

    Raises:
        RefusedError: The hospital is in no consortium, the document is another study, or too many
            offers wait.
        ProtocolError: The coordinator did not sign it.
        DataError: It cannot be written.
    """
    study = read_signed_study(signed, _coordinator(hospital))
    if study.digest() != digest:
        raise RefusedError(
            "the study that was offered is not the one that is named",
            todo="submit the study as the coordinator signed it",
        )
    offers = folder / _OFFERED
    file = offers / f"{digest}.json"
    if file.exists() and file.read_bytes() == signed:  # a crash may have left less
        return
    if not file.exists() and _undecided(folder) >= _MOST:
        raise RefusedError(
            f"{_MOST} offers wait for this hospital's staff already",
            todo="ask them to approve or delete some",
        )
    offers.mkdir(parents=True, exist_ok=True)
    write_public(file, signed)


def _undecided(folder: Path) -> int:
    """Offers that nobody has approved yet."""
    offered = {file.stem for file in (folder / _OFFERED).glob("*.json")}
    if len(offered) < _MOST:
        return len(offered)  # studies are read only when it matters
    return len(offered - {study.digest() for study, _ in approved_files(folder)})


def known_studies(hospital: HospitalFile, folder: Path) -> list[Known]:
    """Every study that was offered or approved, by name and digest.

    Args:
        hospital: The hospital's file.
        folder: The hospital's folder of studies.
    """
    found = {
        study.digest(): Known(study, study.digest(), path) for study, path in approved_files(folder)
    }
    for file in sorted((folder / _OFFERED).glob("*.json")):
        try:
            study = read_signed_study(file.read_bytes(), _coordinator(hospital))
        except ProtocolError as error:
            _LOG.warning("%s: not an offer: %s", file.name, error)
            continue
        digest = study.digest()
        found.setdefault(digest, Known(study, digest, None))
    return sorted(found.values(), key=lambda known: (known.study.study.name, known.digest))


def find_study(digest: str, hospital: HospitalFile, folder: Path) -> Known:
    """The study whose digest begins so.

    Args:
        digest: 8 digits at least.
        hospital: The hospital's file.
        folder: The hospital's folder of studies.

    Raises:
        OptionError: No study, or more than one, begins so.
    """
    if not re.fullmatch(r"[0-9a-f]{8,64}", digest):
        raise OptionError(
            f"no digest: {digest!r:.80}", todo="give 8 or more of its hexadecimal digits"
        )
    found = [k for k in known_studies(hospital, folder) if k.digest.startswith(digest)]
    if len(found) != 1:
        raise OptionError(
            f"{len(found)} studies begin with {digest}", todo="see fedward hospital studies"
        )
    return found[0]


def approve(digest: str, hospital: HospitalFile, folder: Path) -> Path:
    """Approve an offered study.

    Args:
        digest: Its digest, or the beginning of it that no other has; 8 digits at least.
        hospital: The hospital's file.
        folder: The hospital's folder of studies.

    Returns:
        The file that is the approval.

    Raises:
        OptionError: No study, or more than one, begins so.
        DataError: The study's file cannot be written.
    """
    known = find_study(digest, hospital, folder)
    if known.approved is not None:
        return known.approved
    name = re.sub(r"[^\w.-]+", "-", known.study.study.name)[:60]
    file = folder / f"{name}-{known.digest[:12]}.toml"
    values = settled(known.study).model_dump(mode="json", exclude_none=True)
    write_public(file, tomli_w.dumps(values).encode())
    return file


def revoke(digest: str, hospital: HospitalFile, folder: Path) -> Path:
    """Withdraw an approval, which holds from the next message on; the offer stays.

    Args:
        digest: As for `approve`.
        hospital: The hospital's file.
        folder: The hospital's folder of studies.

    Returns:
        The file that was taken away.

    Raises:
        OptionError: No study, or more than one, begins so, or it is not approved.
    """
    known = find_study(digest, hospital, folder)
    if known.approved is None:
        raise OptionError(
            f"study {known.digest[:12]} is not approved", todo="see fedward hospital studies"
        )
    known.approved.unlink()
    return known.approved


def _coordinator(hospital: HospitalFile) -> bytes:
    return bytes.fromhex(consortium_of(hospital).coordinator)
