"""How a hospital joins a consortium: its own keys, a request out, the coordinator's answer in.

The keys are made here and never leave. The request has only their public halves, and of the answer
nothing is believed before a person has compared the coordinator's fingerprint by telephone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from fedward.client.hospital import Consortium, HospitalFile, parse_hospital, read_hospital
from fedward.client.membership import refuse_rival
from fedward.privacy.certificates import read_authority
from fedward.privacy.enrolment import (
    EnrolmentAnswer,
    EnrolmentRequest,
    read_answer,
    read_request,
    sign_request,
)
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import ProtocolError
from fedward.privacy.public_file import read_public, write_public
from fedward.privacy.roster import LARGEST_ROSTER, Roster, is_name, read_roster
from fedward.privacy.transport import TransportKey
from fedward.study.errors import DataError, HospitalError, OptionError

IDENTITY = "identity.pem"
TRANSPORT = "transport.pem"
_ROSTER = "roster.json"
_AUTHORITY = "ca.pem"
_HEADER = re.compile(r"^[ \t]*\[consortium\][ \t]*(#.*)?\r?$", re.MULTILINE)
_NEXT = re.compile(r"^[ \t]*\[", re.MULTILINE)
_SKELETON = """\
# This hospital's own file; it stays here, and is stronger than any study.
name = {name}
device = "auto"           # CUDA, then MPS, then the CPU; or cpu, mps, cuda:1
studies = "studies"       # a study takes part here only if its file lies in this folder
state = "state"           # ledger, journal, keys of runs

[data]                    # enter where the records are
format = "csv"            # or npz, folder
path = "records.csv"
patient = "record"        # or the column that names the patient

[limits]                  # what this hospital allows at most, over all studies on this data
epsilon = 8.0
delta = 1e-5
# declared_patients = 400 # public; needed where privacy is on
"""


@dataclass(frozen=True)
class Keys:
    """A hospital's two keys."""

    identity: Identity
    transport: TransportKey


def prepare(path: Path, name: str | None = None) -> list[Path]:
    """Make what a new hospital needs beside its file: the file itself and both private keys.

    What is there already stays as it is, so that it can be called again after a crash.

    Args:
        path: The hospital's file.
        name: What the hospital is called in the consortium; needed if there is no file yet.

    Returns:
        The files that were made.

    Raises:
        OptionError: The name is missing, can be none, or is not the one in the file.
        HospitalError: The file that is there is faulty.
        DataError: A file cannot be read or written.
    """
    made = []
    if path.exists():
        hospital = read_hospital(path)
        if name not in {None, hospital.name}:
            raise OptionError(
                f"this hospital is called {hospital.name!r} already, not {name!r:.200}",
                todo="leave out --name, or take another folder",
                where=str(path),
            )
    else:
        text = _skeleton(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"the folder cannot be made ({error.strerror})",
                todo="name another one",
                where=str(path.parent),
            ) from None
        write_public(path, text.encode())
        made.append(path)
        hospital = read_hospital(path)
    identity, transport = _key_files(hospital, path)
    if not identity.exists():
        Identity.generate().save(identity)
        made.append(identity)
    if not transport.exists():
        TransportKey.generate().save(transport)
        made.append(transport)
    _load_keys(hospital, path)
    return made


def request_enrolment(path: Path) -> tuple[bytes, EnrolmentRequest]:
    """What this hospital sends to the coordinator, and what is in it.

    Args:
        path: The hospital's file.

    Raises:
        HospitalError: The file is faulty.
        DataError: The file or a key cannot be used.
    """
    hospital = read_hospital(path)
    keys = _load_keys(hospital, path)
    document = sign_request(hospital.name, keys.identity, keys.transport)
    return document, read_request(document)


def accept_answer(
    path: Path,
    document: bytes,
    coordinator: bytes,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Roster:
    """Check an answer and become a member: `roster.json`, `ca.pem`, then `[consortium]`.

    Args:
        path: The hospital's file.
        document: The coordinator's answer.
        coordinator: Its public key, 32 bytes, as compared by telephone.
        clock: The time now, with a time zone.

    Returns:
        The roster, which has this hospital's keys.

    Raises:
        ProtocolError: The answer, its roster or its authority is not to be trusted.
        DataError: The answer is for other keys, or older than what this hospital has, or of another
            coordinator than this hospital's; or a file cannot be used. Nothing was changed then.
        HospitalError: The hospital's file is faulty.
    """
    hospital = read_hospital(path)
    keys = _load_keys(hospital, path)
    answer = read_answer(document, coordinator)
    roster = answer.read_roster()
    read_authority(answer.ca, now=clock())
    _refuse_other_keys(roster, hospital.name, keys)
    _refuse_older(hospital, path, roster, coordinator)
    consortium = _membership(hospital.consortium, answer)
    entered = _enter(_text(path), hospital, consortium, path)
    write_public(path.parent / (consortium.ca or _AUTHORITY), answer.ca)
    write_public(path.parent / consortium.roster, answer.roster)
    if entered != _text(path):
        write_public(path, entered.encode())
    return roster


def _skeleton(name: str | None) -> str:
    if name is None or not is_name(name):
        raise OptionError(
            f"given {'nothing' if name is None else repr(name)[:200]}",
            todo="1 to 100 printable characters (Unicode NFC), no space at the ends",
            where="--name",
        )
    return _SKELETON.format(name=json.dumps(name, ensure_ascii=False))


def _key_files(hospital: HospitalFile, path: Path) -> tuple[Path, Path]:
    own = hospital.consortium
    identity = IDENTITY if own is None else own.identity
    transport = TRANSPORT if own is None or own.transport is None else own.transport
    return path.parent / identity, path.parent / transport


def _load_keys(hospital: HospitalFile, path: Path) -> Keys:
    identity, transport = _key_files(hospital, path)
    for file in (identity, transport):
        if not file.exists():
            raise DataError(
                "this hospital has no such key yet",
                todo="make it with `fedward hospital init`",
                where=str(file),
            )
    return Keys(Identity.load(identity), TransportKey.load(transport))


def _refuse_other_keys(roster: Roster, name: str, keys: Keys) -> None:
    own = (keys.identity.public, keys.transport.public)
    if (roster.members.get(name), roster.transports.get(name)) != own:
        raise DataError(
            f"the roster in this answer does not name {name!r} with this hospital's keys",
            todo="send the coordinator the request that `fedward hospital enroll` writes now",
        )


def _refuse_older(hospital: HospitalFile, path: Path, roster: Roster, coordinator: bytes) -> None:
    """A hospital keeps to its coordinator, and never goes back to who was a member once."""
    own = hospital.consortium
    if own is None:
        return
    if bytes.fromhex(own.coordinator) != coordinator:
        raise DataError(
            "this hospital is in the consortium of another coordinator",
            todo="if it leaves that one for good, take [consortium] out of the file first",
            where=str(path),
        )
    file = path.parent / own.roster
    if not file.exists():
        return
    try:
        kept = read_roster(read_public(file, what="roster", largest=LARGEST_ROSTER), coordinator)
    except ProtocolError as error:
        raise DataError(error.what, todo="move this file away", where=str(file)) from None
    if roster.version < kept.version:
        raise DataError(
            f"the answer has version {roster.version} of the roster, older than {kept.version}",
            todo="ask the coordinator for a new answer",
            where=str(file),
        )
    refuse_rival(roster, kept, file)


def _membership(own: Consortium | None, answer: EnrolmentAnswer) -> Consortium:
    """What `[consortium]` says from now on; files keep the names that a person gave them."""
    return Consortium(
        roster=own.roster if own else _ROSTER,
        coordinator=answer.coordinator.hex(),
        identity=own.identity if own else IDENTITY,
        transport=own.transport if own and own.transport else TRANSPORT,
        ca=own.ca if own and own.ca else _AUTHORITY,
        address=answer.address,
    )


def _enter(text: str, hospital: HospitalFile, consortium: Consortium, path: Path) -> str:
    """The file's text with this `[consortium]`; every other line, and its comments, as they were.

    Raises:
        DataError: The table stands in a form that cannot be exchanged without harm.
    """
    if hospital.consortium == consortium:
        return text
    table = "[consortium]\n" + tomli_w.dumps(consortium.model_dump(mode="json"))
    if found := _HEADER.search(text):
        after = _NEXT.search(text, found.end())
        rest = "\n" + text[after.start() :] if after else ""
        entered = text[: found.start()] + table + rest
    else:
        entered = text.rstrip("\n") + "\n\n" + table
    wanted = hospital.model_copy(update={"consortium": consortium})
    try:
        right = parse_hospital(entered, path) == wanted
    except (DataError, HospitalError):
        right = False
    if not right:
        raise DataError(
            "[consortium] cannot be written into this file without changing the rest",
            todo="take everything about the consortium out of it, then enrol again",
            where=str(path),
        )
    return entered


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", todo="mend it", where=str(path)) from None
