"""The coordinator's folder: the keys that found a consortium, its roster, and who asked for what.

    coordinator.pem  signs rosters, answers and studies; its owner's alone
    ca-key.pem       signs the aggregator's certificate; its owner's alone
    ca.pem           the authority's certificate, public
    consortium.toml  where the aggregator is reached
    roster.json      the newest roster, public
    requests/ answers/ certificates/    what came in and what went out, all public

Changes take a lock, so that two processes never give the same version to two rosters; the roster is
written last and whole, so that after a crash it is the old one or the new one.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import AfterValidator

from fedward.privacy.address import split_address
from fedward.privacy.certificates import LARGEST_PEM, Authority, read_certificate_request
from fedward.privacy.enrolment import (
    EnrolmentAnswer,
    EnrolmentRequest,
    read_request,
    sign_answer,
)
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadCertificate, ProtocolError
from fedward.privacy.public_file import read_public, write_public
from fedward.privacy.roster import LARGEST_ROSTER, Roster, read_roster, sign_roster
from fedward.privacy.signed_study import sign_study
from fedward.privacy.whole_file import keep_names
from fedward.study.errors import DataError, OptionError
from fedward.study.frozen import Fault, Frozen, read_toml, validate
from fedward.study.study import Study

_COORDINATOR = "coordinator.pem"
_AUTHORITY_KEY = "ca-key.pem"
_AUTHORITY = "ca.pem"
_SETTINGS = "consortium.toml"
_ROSTER = "roster.json"
_LOCK = ".lock"
_KEPT = ("requests", "answers", "certificates")


def _address(text: str) -> str:
    split_address(text)
    return text


class _Settings(Frozen):
    """What `consortium.toml` holds."""

    address: Annotated[str, AfterValidator(_address)]


def _clock() -> datetime:
    return datetime.now(UTC)


class Consortium:
    """A consortium, as its coordinator's own machine has it.

    Attributes:
        coordinator: The coordinator's public key, 32 bytes.
        address: Where the aggregator is reached, `host:port`.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = _clock) -> None:
        """Open the folder that `found` made.

        Args:
            folder: The coordinator's.
            clock: The time now, with a time zone.

        Raises:
            DataError: There is no consortium, or one of its files cannot be used.
        """
        settings = validate(_Settings, read_toml(folder / _SETTINGS, what="consortium"))
        if isinstance(settings, Fault):
            raise DataError(
                f"given {settings.given}",
                todo=f"allowed: {settings.allowed}",
                where=f"{folder / _SETTINGS}: {settings.key}",
            )
        self._folder = folder
        self._clock = clock
        self._identity = Identity.load(folder / _COORDINATOR)
        self.address = settings.address
        self.coordinator = self._identity.public

    @classmethod
    def found(
        cls, folder: Path, address: str, *, clock: Callable[[], datetime] = _clock
    ) -> Consortium:
        """Make the keys and an empty roster; the folder is there with all its files, or not at all.

        Args:
            folder: New, or empty.
            address: Where hospitals will reach the aggregator, `host:port`.
            clock: The time now, with a time zone.

        Raises:
            OptionError: The address cannot be one.
            DataError: The folder holds something already, or cannot be written.
        """
        try:
            split_address(address)
        except ValueError as error:
            raise OptionError(str(error), where=f"address {address!r:.80}") from None
        folder = folder.absolute()
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
        try:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                aside.mkdir(mode=0o700)
                _furnish(aside, address, clock())
                aside.rename(folder)  # over nothing, or an empty folder
                keep_names(folder.parent)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        except OSError as error:
            raise DataError(
                f"no consortium can be founded here ({error.strerror})",
                todo="name a folder that is not there yet; keys are never written over",
                where=str(folder),
            ) from None
        return cls(folder, clock=clock)

    @property
    def roster(self) -> Roster:
        """The newest roster.

        Raises:
            DataError: Its file is missing or damaged; it is never made anew from nothing.
        """
        return self._read_roster(self.roster_document)

    @property
    def roster_document(self) -> bytes:
        """The newest roster as its signed document, public.

        Raises:
            DataError: Its file is missing.
        """
        return read_public(self.roster_path, what="roster", largest=LARGEST_ROSTER)

    @property
    def roster_path(self) -> Path:
        """The newest roster's file, to be handed to the aggregator."""
        return self._folder / _ROSTER

    def admit(self, document: bytes) -> bytes:
        """Enter a hospital, whose fingerprint a person has compared, and answer it.

        The same request again gets the newest roster, whose version stays as it is.

        Args:
            document: The hospital's request.

        Returns:
            The answer's document, to be sent to the hospital.

        Raises:
            BadRequest: It is no request.
            BadSignature: It is not signed by the identity in it.
            DataError: The name, or one of the keys, is in the roster otherwise.
        """
        request = read_request(document)
        kept = hashlib.sha256(document).hexdigest()
        with self._alone():
            roster = self.roster
            if not _is_member(roster, request):
                _refuse_other(roster, request)
                write_public(self._folder / "requests" / f"{kept}.json", document)
                members = {**roster.members, request.name: request.identity}
                transports = {**roster.transports, request.name: request.transport}
                roster = self._raise(roster, members, transports)
            answer = self.answer()
            name = f"{kept}.{roster.version}.json"
            write_public(self._folder / "answers" / name, answer)
        return answer

    def expel(self, name: str) -> Roster:
        """Strike a hospital out; it takes part no more from the round that has the new roster.

        Returns:
            The new roster.

        Raises:
            DataError: No member has that name.
        """
        with self._alone():
            roster = self.roster
            if name not in roster.members:
                near = difflib.get_close_matches(name, roster.members, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise DataError(
                    f"no member is called {name!r:.200}{hint}",
                    todo="see `fedward consortium roster`",
                    where=str(self.roster_path),
                )
            members = {other: key for other, key in roster.members.items() if other != name}
            transports = {other: key for other, key in roster.transports.items() if other != name}
            return self._raise(roster, members, transports)

    def sign(self, study: Study) -> bytes:
        """The signed document of a study, which hospitals then approve or not.

        Args:
            study: Settled, so that its digest covers every setting of its model.

        Raises:
            ValueError: The study cannot be written so that it is read again unchanged.
        """
        return sign_study(study, self._identity)

    def certify(self, request: bytes) -> bytes:
        """Certify an aggregator, whose key's fingerprint a person has compared.

        Args:
            request: PKCS 10 in PEM; it must name the host of the consortium's address.

        Returns:
            PEM: the aggregator's certificate, then the authority's.

        Raises:
            BadCertificate: The request cannot be used, or is for other hosts.
            DataError: The authority's files cannot be used.
        """
        host, _ = split_address(self.address)
        if host not in read_certificate_request(request).hosts:
            raise BadCertificate(
                f"the request is not for {host}, where hospitals look for the aggregator",
                todo=f"make one for {host}, or mend address in {_SETTINGS} and enrol anew",
            )
        authority = Authority.load(self._folder / _AUTHORITY_KEY, self._authority_pem())
        chain = authority.certify(request, now=self._clock())
        kept = hashlib.sha256(chain).hexdigest()
        write_public(self._folder / "certificates" / f"{kept}.pem", chain)
        return chain

    def answer(self, certificate: bytes = b"") -> bytes:
        """The newest roster, the coordinator's key, the authority and the address, signed.

        Args:
            certificate: For an aggregator, what `certify` gave.

        Raises:
            DataError: A file of the consortium cannot be used.
        """
        self._read_roster(document := self.roster_document)
        answer = EnrolmentAnswer(
            document, self.coordinator, self._authority_pem(), self.address, certificate
        )
        return sign_answer(answer, self._identity)

    def _raise(
        self, roster: Roster, members: dict[str, bytes], transports: dict[str, bytes]
    ) -> Roster:
        newer = Roster(roster.version + 1, members, transports)
        write_public(self.roster_path, sign_roster(newer, self._identity))
        return newer

    def _read_roster(self, document: bytes) -> Roster:
        try:
            return read_roster(document, self.coordinator)
        except ProtocolError as error:
            raise DataError(
                error.what, todo="restore the newest backup of it", where=str(self.roster_path)
            ) from None

    def _authority_pem(self) -> bytes:
        path = self._folder / _AUTHORITY
        return read_public(path, what="authority's certificate", largest=LARGEST_PEM)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the roster meanwhile; the lock ends with the process, come what may.

        It is held for moments, never while a person is asked something.
        """
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(self._folder / _LOCK, flags, 0o600)
        except OSError as error:
            raise DataError(
                f"cannot be locked ({error.strerror})",
                todo="run this as the owner of the folder",
                where=str(self._folder),
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _furnish(folder: Path, address: str, now: datetime) -> None:
    coordinator, authority = Identity.generate(), Authority.generate(now=now)
    coordinator.save(folder / _COORDINATOR)
    authority.save(folder / _AUTHORITY_KEY)
    write_public(folder / _AUTHORITY, authority.pem)
    write_public(folder / _SETTINGS, tomli_w.dumps({"address": address}).encode())
    write_public(folder / _ROSTER, sign_roster(Roster(1, {}), coordinator))
    for name in _KEPT:
        (folder / name).mkdir()


def _is_member(roster: Roster, request: EnrolmentRequest) -> bool:
    keys = (roster.members.get(request.name), roster.transports.get(request.name))
    return keys == (request.identity, request.transport)


def _refuse_other(roster: Roster, request: EnrolmentRequest) -> None:
    """A key or a name that is taken: no member is ever replaced in passing."""
    if request.name in roster.members:
        raise DataError(
            f"{request.name!r} is a member already, with other keys",
            todo="find out why; if it is right, expel the member first, then admit it again",
        )
    for kind, keys, key in (
        ("identity", roster.members, request.identity),
        ("transport key", roster.transports, request.transport),
    ):
        if taken := [name for name, other in keys.items() if other == key]:
            raise DataError(
                f"the {kind} of {request.name!r} is that of the member {taken[0]!r}",
                todo="every hospital makes its own keys; a member that changed its name is "
                "expelled first",
            )
