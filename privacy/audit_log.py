"""What left a hospital, and what it was asked: one line of JSON each, signed, never changed.

Each line carries its number, the SHA-256 of the line before it and the hospital's signature over
both and over what it says, so a line that is changed, taken out, moved or put in is noticed. A
small file beside the log, the head, says how many lines there are: it is written after the line is
on disk, so the log may be one line ahead of it and never behind.

    {"after":"<hash>","entry":{"at":"...","kind":"train",...},"number":2,"signature":"<hex>"}
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from fedward.privacy.chain import chain_start
from fedward.privacy.identity import Identity
from fedward.privacy.identity import verify as verify_signature
from fedward.privacy.log_head import check_head, write_head
from fedward.privacy.protocol_errors import BadSignature
from fedward.privacy.secret_file import write_secret
from fedward.privacy.signed_json import canonical, read_signed, write_signed
from fedward.privacy.whole_file import keep_names
from fedward.study.errors import DataError, FedwardError

_PURPOSE = "audit-log"
_START = chain_start("audit-log")
_LONGEST = 1 << 16  # bytes of a line; a real one has about 600

Direction = Literal["in", "out", "own"]


class BrokenLog(FedwardError):  # noqa: N818 - reads as the fact that it states
    """A line of the audit log was changed, is missing, moved or torn; the first one is named."""


@dataclass(frozen=True)
class Entry:
    """What one line says.

    Attributes:
        at: When, ISO 8601, UTC.
        hospital: Whose log it is.
        kind: Kind of the message as on the wire (`train`, `query.unmask`); of a line about the log
            itself, `began` or `torn`.
        direction: `out` left the building, `in` arrived, `own` is about the log itself.
        study: Digest of the study; empty if the message names none.
        run: Name of the run; empty likewise.
        round: From 1; 0 outside of rounds.
        refused: Of what left: the name of the error if it is a refusal, else empty.
        size: Bytes of the message.
        sha256: Of those bytes, hexadecimal.
        model: SHA-256 of the model that a request brought, hexadecimal; None if it brought none.
        epsilon: Charged so far on the data set, this message included; None if nothing is.
    """

    at: str
    hospital: str
    kind: str
    direction: Direction
    study: str = ""
    run: str = ""
    round: int = 0
    refused: str = ""
    size: int = 0
    sha256: str = ""
    model: str | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Line:
    """One line of a log, verified.

    Attributes:
        number: From 1.
        entry: What it says.
        hash: SHA-256 of the line as it stands, hexadecimal.
    """

    number: int
    entry: Entry
    hash: str


class AuditLog:
    """The log of one hospital, open for writing by one process."""

    def __init__(
        self,
        path: Path,
        hospital: str,
        identity: Identity,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open or create the log; only its owner may read it.

        A last line that was torn by a crash is kept beside the log, and the log says so.

        Args:
            path: The file; its head lies beside it.
            hospital: Its name.
            identity: Signs every line.
            now: The clock.

        Raises:
            BrokenLog: The chain is broken, or lines are missing.
            DataError: The file cannot be used, or another process has it open.
        """
        self._path, self._hospital, self._identity, self._now = path, hospital, identity, now
        self._one = threading.Lock()
        self._half = False  # whether something may stand after the last line
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise _unusable(path, str(error.strerror)) from None
        try:
            self._take()
            self._go_on()
        except OSError as error:
            os.close(self._file)
            raise _unusable(path, str(error.strerror)) from None
        except BaseException:
            os.close(self._file)
            raise

    def append(self, kind: str, direction: Direction, **said: Any) -> Line:  # noqa: ANN401
        """Write a line; it is on disk when this returns.

        Args:
            kind: Of the message.
            direction: `out` or `in`.
            said: Further attributes of `Entry`.

        Raises:
            DataError: It could not be written, and the log is as it was.
            BrokenLog: It could not be read again, and the log is as it was.
        """
        with self._one:
            return self._append(kind, direction, **said)

    def close(self) -> None:
        """Let another process open it."""
        with self._one:
            os.close(self._file)

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _unusable(self._path, "another process writes to it") from None

    def _go_on(self) -> None:
        """Find the end of what is there, and keep aside what is no whole line."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        self._number, self._last = 0, _START
        for line in _chain(content[:whole]):
            self._number, self._last = line.number, line.hash
        if self._number:  # the others are held by their hashes, as far as this line is signed
            _check_signature(content[:whole].split(b"\n")[-2], self._number, self._identity.public)
        check_head(self._path, list(_hashes(content[:whole])), _refuse, required=self._number > 1)
        self._size = whole
        torn = content[whole:]
        if torn:
            aside = self._path.with_name(f"{self._path.name}.torn-{self._number + 1}")
            write_secret(aside, torn, over=True)
            os.ftruncate(self._file, whole)
        if not self._number:
            self._append("began", "own")
            keep_names(self._path.parent)
        if torn:
            self._append("torn", "own", size=len(torn), sha256=hashlib.sha256(torn).hexdigest())

    def _append(self, kind: str, direction: Direction, **said: Any) -> Line:  # noqa: ANN401
        at = self._now().isoformat(timespec="milliseconds")
        entry = Entry(at, self._hospital, kind, direction, **said)
        number = self._number + 1
        body = {"after": self._last, "entry": _written(entry), "number": number}
        line = write_signed(body, _PURPOSE, self._identity)
        _read_entry(_read(line, number)[0]["entry"], number)  # what cannot be read is not written
        last = hashlib.sha256(line).hexdigest()
        try:
            self._cut()
            self._half = True
            _write_whole(self._file, line + b"\n")
            os.fsync(self._file)
            write_head(self._path, number, last)
            self._half = False
        except OSError as error:
            with suppress(OSError):  # else the next line tries it again
                self._cut()
            raise _unusable(self._path, str(error.strerror)) from None
        self._size += len(line) + 1
        self._number, self._last = number, last
        return Line(number, entry, last)

    def _cut(self) -> None:
        """A full disk may have taken half of a line, or the line and not its head."""
        if self._half:
            os.ftruncate(self._file, self._size)
            self._half = False


def verify(path: Path, public: bytes, *, own: bool = False) -> list[Line]:
    """Read a log and check all of it.

    Args:
        path: The file.
        public: The identity that signed it, 32 bytes.
        own: The log is this hospital's, so that its head must lie beside it.

    Raises:
        BrokenLog: A line does not fit; the first such line is named.
        DataError: The file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from None
    whole = content.rfind(b"\n") + 1
    lines = []
    for line, raw in zip(_chain(content[:whole]), content[:whole].split(b"\n"), strict=False):
        _check_signature(raw, line.number, public)
        lines.append(line)
    if whole < len(content):
        raise _broken(
            len(lines) + 1,
            f"it is torn ({len(content) - whole} bytes without an end)",
            todo="start the daemon, which keeps the piece aside and goes on",
        )
    check_head(path, [line.hash for line in lines], _refuse, required=own and len(lines) > 1)
    return lines


def named_hospital(path: Path) -> str:
    """Whose log a file says that it is, which only `verify` with that hospital's key proves.

    Raises:
        BrokenLog: The first line does not fit.
        DataError: The file cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            raw = file.readline(_LONGEST + 2)
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from None
    for line in _chain(raw):
        return line.entry.hospital
    raise DataError("is no audit log", todo="give a hospital's audit.jsonl", where=str(path))


def refuse_older(ours: list[Line], earlier: list[Line]) -> None:
    """Raise if an earlier copy of the same log is not the beginning of what is there now.

    Raises:
        BrokenLog: The first line that differs is named.
    """
    for number, before in enumerate(earlier, start=1):
        if number > len(ours) or ours[number - 1].hash != before.hash:
            raise _broken(number, "an earlier copy has another line there: the log was rewritten")


def _chain(content: bytes) -> Iterator[Line]:
    """Every line in its place; signatures are not looked at."""
    before = _START
    for number, raw in enumerate(content.split(b"\n")[:-1], start=1):
        value, _ = _read(raw, number)
        if value["number"] != number or value["after"] != before:
            raise _broken(number, "it does not follow from the one before")
        before = hashlib.sha256(raw).hexdigest()
        yield Line(number, _read_entry(value["entry"], number), before)


def _hashes(content: bytes) -> Iterator[str]:
    return (hashlib.sha256(raw).hexdigest() for raw in content.split(b"\n")[:-1])


def _read(raw: bytes, number: int) -> tuple[dict[str, Any], bytes]:
    try:
        body, signature = read_signed(raw, largest=_LONGEST)
    except ValueError as error:
        raise _broken(number, str(error)) from None
    if set(body) != {"after", "entry", "number"}:
        raise _broken(number, "it is no line of an audit log")
    return body, signature


def _check_signature(raw: bytes, number: int, public: bytes) -> None:
    body, signature = _read(raw, number)
    try:
        verify_signature(public, _PURPOSE, canonical(body), signature)
    except BadSignature:
        raise _broken(number, "the signature is not this hospital's") from None


_KINDS: Mapping[str, tuple[type, ...]] = {
    **{f.name: (str,) for f in fields(Entry)},
    "round": (int,),
    "size": (int,),
    "model": (str, type(None)),
    "epsilon": (float, type(None)),
}


def _written(entry: Entry) -> dict[str, object]:
    """Without what has its default value."""
    defaults = {f.name: f.default for f in fields(Entry)}
    return {key: value for key, value in asdict(entry).items() if value != defaults[key]}


def _read_entry(value: object, number: int) -> Entry:
    wanted = {"at", "hospital", "kind", "direction"}
    if not (
        isinstance(value, dict)
        and wanted <= set(value) <= set(_KINDS)
        and all(type(value[key]) in _KINDS[key] for key in value)
        and value["direction"] in {"in", "out", "own"}
    ):
        raise _broken(number, "it does not say what a line says")
    return Entry(**value)


def _write_whole(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"the audit log cannot be used ({why})",
        todo="check the path, the disk, its rights, and that one daemon runs",
        where=str(path),
    )


def _broken(
    number: int, why: str, *, todo: str = "find out who did it; keep the file for those who ask"
) -> BrokenLog:
    return BrokenLog(f"line {number} of the audit log does not fit: {why}", todo=todo)


def _refuse(number: int, why: str) -> NoReturn:
    raise _broken(number, why)
