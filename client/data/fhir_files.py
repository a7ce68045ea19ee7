"""FHIR resources out of files, one at a time: bundles and bulk exports, within bounds.

A bundle's text is held, its entries are read one by one. Of a bulk export one line is held.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast

from fedward.study.errors import DataError

Json = dict[str, Any]

MOST_OF_A_BUNDLE = 64 * 2**20
MOST_OF_A_LINE = 16 * 2**20
"""Bytes, unpacked; objects that are made of them take up to some thirty times as much."""

_MOST_UNPACKED = 200  # times the packed size: text is packed by ten to forty
_ALWAYS_ALLOWED = 2**20  # bytes, however small the packed file is
_MOST_BROKEN_LINES = 100
_MOST_EMPTY_LINES = 1000
_SUFFIXES = (".json", ".json.gz", ".ndjson", ".ndjson.gz")
_SPACE = re.compile(r"[ \t\r\n]*")
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, RecursionError)


class Found(NamedTuple):
    """A resource.

    Attributes:
        resource: Its JSON.
        full_url: What other entries of the bundle may call it; empty if nothing is said.
        place: Where in the file it is, for people.
    """

    resource: Json
    full_url: str
    place: str


def fhir_files(path: Path) -> list[Path]:
    """The files of a folder and of the folders in it, in their names' order; or the one file.

    Raises:
        DataError: There are none.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.lower().endswith(_SUFFIXES))
        if found := [p for p in files if p.is_file() and not p.name.startswith(".")]:
            return found
    raise DataError(
        f"no FHIR files here ({', '.join(_SUFFIXES)})", todo="check the path", where=str(path)
    )


def resources(path: Path, told: Callable[[DataError], None]) -> Iterator[Found]:
    """The resources of one file.

    Args:
        path: A bundle, a single resource, or NDJSON; by its name.
        told: Of lines that are broken; the others are still read.

    Raises:
        DataError: The file cannot be read, or not to its end.
    """
    lines = path.name.lower().removesuffix(".gz").endswith(".ndjson")
    try:
        with _Bounded(path) as file:
            yield from _of_lines(file, path, told) if lines else _of_bundle(file, path)
    except _UNREADABLE as error:
        raise DataError(
            f"cannot be read as FHIR ({_why(error)})", todo="export it anew", where=str(path)
        ) from None


class _Bounded:
    """A file, unpacked if it is packed, that says when it becomes more than it should."""

    def __init__(self, path: Path) -> None:
        packed = path.name.lower().endswith(".gz")
        kept = gzip.open(path) if packed else path.open("rb")  # noqa: SIM115 - __exit__ closes it
        self._file = cast(IO[bytes], kept)
        most = path.stat().st_size
        self._left = max(_ALWAYS_ALLOWED, most * _MOST_UNPACKED) if packed else most

    def __enter__(self) -> _Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, most: int) -> bytes:
        """All of it, if that is not more than so many bytes; else ValueError."""
        return self._counted(self._file.read(most + 1), most, "a bundle")

    def line(self, most: int) -> bytes:
        """The next line; nothing at the end."""
        return self._counted(self._file.readline(most + 1), most, "a line")

    def _counted(self, found: bytes, most: int, what: str) -> bytes:
        self._left -= len(found)
        if len(found) > most:
            raise ValueError(f"{what} of more than {most >> 20} MiB")
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_MOST_UNPACKED} times its size")
        return found


def _why(error: BaseException) -> str:
    """Without what the file holds: that may be somebody's name."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, OSError):
        return error.strerror or "it is broken"
    return str(error)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _of_lines(file: _Bounded, path: Path, told: Callable[[DataError], None]) -> Iterator[Found]:
    number, broken, empty = 0, 0, 0
    while line := file.line(MOST_OF_A_LINE):
        number += 1
        if not line.strip():
            empty += 1
            if empty > _MOST_EMPTY_LINES:
                raise ValueError(f"{empty} lines are empty, up to line {number}")
            continue
        try:
            resource = _DECODER.decode(line.decode("utf-8").strip())
            if not isinstance(resource, dict):
                raise ValueError("it is no resource")
        except (ValueError, RecursionError) as error:
            fault = DataError(
                f"line {number} cannot be read as FHIR ({_why(error)})",
                todo="export it anew",
                where=str(path),
            )
            told(fault)
            broken += 1
            if broken >= _MOST_BROKEN_LINES:
                raise ValueError(f"{broken} lines are broken, up to line {number}") from None
            continue
        yield Found(resource, "", f"line {number}")


def _of_bundle(file: _Bounded, path: Path) -> Iterator[Found]:
    cursor = _Cursor(file.read(MOST_OF_A_BUNDLE).decode("utf-8-sig"))
    top: Json = {}
    for key in cursor.members():
        if key != "entry":
            top[key] = cursor.value()
            continue
        for number, entry in enumerate(cursor.elements(), start=1):
            resource = entry.get("resource", {}) if isinstance(entry, dict) else None
            if not isinstance(resource, dict):
                raise ValueError(f"entry {number} is none")
            url = entry.get("fullUrl")
            yield Found(resource, url if isinstance(url, str) else "", f"entry {number}")
    if top.get("resourceType") != "Bundle":
        yield Found(top, "", "the file")
    elif top.get("type") == "history":
        raise ValueError("a bundle of old versions")


class _Cursor:
    """A place in a text of JSON, which is read a value at a time.

    Whoever is given a key or stands at a list takes its value before going on. What is no JSON is a
    `JSONDecodeError`.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self) -> Iterator[str]:
        """The keys of the object that is the whole text."""
        self._skip("{")
        if not self._is_next("}"):
            while True:
                key = self.value()
                if not isinstance(key, str):
                    raise self._not("a key")
                self._skip(":")
                yield key
                if not self._is_next(","):
                    break
            self._skip("}")
        if self._peek():
            raise self._not("the end")

    def elements(self) -> Iterator[Any]:
        """The values in a list."""
        self._skip("[")
        if self._is_next("]"):
            return
        while True:
            yield self.value()
            if not self._is_next(","):
                break
        self._skip("]")

    def value(self) -> Any:  # noqa: ANN401 - any JSON value
        """The next value."""
        self._peek()
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value

    def _peek(self) -> str:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _is_next(self, sign: str) -> bool:
        found = self._peek() == sign
        self._at += found
        return found

    def _skip(self, sign: str) -> None:
        if not self._is_next(sign):
            raise self._not(repr(sign))

    def _not(self, wanted: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(f"Expecting {wanted}", self._text, self._at)
