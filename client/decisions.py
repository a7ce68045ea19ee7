"""What staff decide about studies: by the daemon if one runs, else by its files alone."""

from __future__ import annotations

from pathlib import Path

from fedward.client import offers
from fedward.client.control import ControlClient, NotRunning
from fedward.client.hospital import read_hospital


def approve(digest: str, hospital_path: Path) -> Path:
    """Approve an offered study.

    Args:
        digest: Its digest, or 8 or more of its first digits.
        hospital_path: The `hospital.toml`.

    Returns:
        The file that is the approval.

    Raises:
        OptionError: No study, or more than one, begins so.
        DataError: The study's file cannot be written.
    """
    try:
        with ControlClient(hospital_path) as client:
            return client.approve(digest)
    except NotRunning:
        hospital = read_hospital(hospital_path)
        return offers.approve(digest, hospital, hospital_path.parent / hospital.studies)


def revoke(digest: str, hospital_path: Path) -> Path:
    """Withdraw an approval: it holds from the next message on; the offer stays.

    Args:
        digest: As for `approve`.
        hospital_path: The `hospital.toml`.

    Returns:
        The file that was taken away.

    Raises:
        OptionError: No study, or more than one, begins so, or it is not approved.
    """
    try:
        with ControlClient(hospital_path) as client:
            return client.revoke(digest)
    except NotRunning:
        hospital = read_hospital(hospital_path)
        return offers.revoke(digest, hospital, hospital_path.parent / hospital.studies)
