"""DICOM files of a folder: which there are, and what their heads say.

What pydicom warns of and raises quotes values, which name people: none of it passes from here. What
a file claims is held against its size before anything is read at that length.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from fedward.client.data.decoded import State, state_in
from fedward.client.data.extras import need
from fedward.client.data.faults import Unreadable
from fedward.study.errors import DataError

SUFFIXES = {".dcm", ".dicom", ".ima"}
_INDEX = "1.2.840.10008.1.3.10"  # Media Storage Directory: lists files, and is no record
_DEFLATED = "1.2.840.10008.1.2.1.99"
_AT_ONCE = 2**21  # bytes of a file that is read in one go
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
_MOST_META = 2**20  # bytes of File Meta Information
_ODD = {None, _DEFLATED}  # transfer syntaxes
_ELEMENT = 12  # bytes of the longest head of an element
_WORD, _UID = re.compile(rb"[A-Z0-9_ ]{1,16}"), re.compile(rb"[0-9.]{1,64}\0?")
_WHOLE = re.compile(rb" {0,2}[0-9]{1,9} {0,2}")
_REALS = re.compile(
    rb"(?: ?-?[0-9]{1,9}(?:\.[0-9]{0,12})? {0,2}\\)+ ?-?[0-9]{1,9}(?:\.[0-9]{0,12})? {0,2}"
)
HEAD = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "BurnedInAnnotation",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)

PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "PaletteColorLookupTableUID",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}  # float, double and whole pixels: the last tags
_START = 2**16  # bytes that are read first; as a rule all but the pixels is in them
_MOST_KEPT = 2**28  # bytes of heads that are kept until their pixels are asked for
_KEPT = 2**13  # of each, for what pydicom makes of it


def pydicom() -> ModuleType:
    """The library, silent.

    Raises:
        OptionError: It is not installed.
    """
    found = need("pydicom", extra="imaging")
    log = logging.getLogger("pydicom")
    if log.level != logging.CRITICAL:  # its lines quote values
        log.setLevel(logging.CRITICAL)
    return found


@lru_cache
def tags_of(keywords: tuple[str, ...]) -> list[Any]:
    """What pydicom makes of keywords, for each file anew where it is not given this."""
    from pydicom.tag import Tag

    return [Tag(keyword) for keyword in keywords]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is told by the file's name and the kind of error alone.

    Raises:
        DataError: Something did.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make pydicom raise errors of every kind
        raise Unreadable(
            f"cannot be read as DICOM ({type(error).__name__})",
            todo="export it anew, or take it out",
            where=str(path),
        ) from None


class _Bounded(io.BufferedReader):
    """A file that never makes room for more than it holds, whatever length is asked for."""

    def __init__(self, raw: io.FileIO, size: int) -> None:
        super().__init__(raw)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A DICOM file to read from, its transfer syntax known to be one that is read.

    Raises:
        Unreadable: It is no DICOM file, or a deflated one.
    """
    size = path.stat().st_size
    with io.FileIO(path) as raw:
        content = raw.read(_AT_ONCE) if size <= _AT_ONCE else b""
        file: BinaryIO = io.BytesIO(content) if content else _Bounded(raw, size)
        most = 132 + min(size, _MOST_META)
        start = memoryview(content)[:most] if content else memoryview(file.read(most))
        if bytes(start[128:132]) != b"DICM":
            raise Unreadable(
                "has no DICOM header (preamble and File Meta Information)",
                todo="export it anew, or take it out",
                where=str(path),
            )
        if _transfer_syntax(start[132:]) == _DEFLATED:
            raise Unreadable(
                f"is deflated as a whole (transfer syntax {_DEFLATED})",
                todo="write it plainly, for example with dcmconv +te",
                where=str(path),
            )
        file.seek(0)
        yield file


def _transfer_syntax(meta: memoryview) -> str | None:
    """The value of (0002,0010); None if it does not stand where it must."""
    at = 0
    while at + 12 <= len(meta):
        group, element, kind = struct.unpack_from("<HH2s", meta, at)
        if group != 2:
            return None
        long = kind in _LONG
        (length,) = struct.unpack_from("<I" if long else "<H", meta, at + (8 if long else 6))
        at += 12 if long else 8
        if element == 0x10:
            return bytes(meta[at : at + length]).decode("ascii", "replace").rstrip("\0 ")
        at += length
    return None


@dataclass(frozen=True)
class Head:
    """What is known of a file before its pixels are read.

    Attributes:
        path: The file.
        relative: Its path in the folder, with slashes.
        state: Of the file when its head was read.
        values: Those of `HEAD` and of the patient's tag that it has, by keyword.
        fault: Why it holds no image; None if it does.
        kept: The pixels' description, as pydicom has it; None if all is to be read again.
        pixels: Where in the file they begin; None if they are in `kept`, as of small files.
    """

    path: Path
    relative: str
    state: State
    values: Mapping[str, Any]
    fault: DataError | None = None
    kept: Any = None
    pixels: int | None = None

    def text(self, keyword: str) -> str:
        """A value as text; empty if it is not there."""
        value = self.values.get(keyword)
        return "" if value is None else str(value).strip()

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """So many numbers; None if they are not there."""
        value = self.values.get(keyword)
        if value is None or isinstance(value, str) or len(value) != count:
            return None
        return tuple(map(float, value))

    @cached_property
    def frames(self) -> int:
        """How many images it holds."""
        return int(self.text("NumberOfFrames") or 1)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.text("Rows")), int(self.text("Columns"))

    @cached_property
    def key(self) -> str:
        """What its bytes are: path, size, and when they were last changed."""
        return " ".join(map(str, (self.relative, *self.state)))


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder and the folders in it, sorted: by their names, or first bytes.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError("no such folder", todo="check the path", where=str(folder))
    return sorted(path for path in folder.rglob("*") if path.is_file() and _is_dicom(path))


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def heads_of(folder: Path, also: Sequence[str] = ()) -> list[Head]:
    """What the heads of all DICOM files say.

    Args:
        folder: Where they are.
        also: Keywords of tags to read beside `HEAD`.
    """
    heads, kept = [], 0
    for path in dicom_files(folder):
        head, size = _head(path, path.relative_to(folder).as_posix(), also)
        kept += size + _KEPT
        heads.append(head if kept <= _MOST_KEPT else replace(head, kept=None))
    return [head for head in heads if head.text("SOPClassUID") != _INDEX]


def _head(path: Path, relative: str, also: Sequence[str]) -> tuple[Head, int]:
    """A file's head, and the bytes of the file that it was made of."""
    state: State = ()
    try:
        with reading(path), io.FileIO(os.fspath(path)) as raw:
            state = state_in(os.fstat(raw.fileno()))
            wanted = tags_of((*HEAD, *also, *PIXEL_TAGS))
            tags, pixels, good = _before_pixels(path, raw, state[0], wanted)
            values = _values(tags, (*HEAD, *also))
            head = Head(path, relative, state, values, kept=tags if good else None, pixels=pixels)
            if head.frames < 1:
                raise ValueError
            if not head.text("Rows"):
                kind = values.get("SOPClassUID")
                name = "of an unknown kind" if kind is None else pydicom().uid.UID(kind).name
                raise Unreadable(
                    f"holds no image ({name})", todo="take it out of the folder", where=str(path)
                )
            _ = head.size  # whole numbers
            return head, state[0] if pixels is None else pixels
    except DataError as error:
        return Head(path, relative, state, {}, error), 0


def _before_pixels(
    path: Path, raw: io.FileIO, size: int, wanted: list[Any]
) -> tuple[Any, int | None, bool]:
    """What pydicom finds before the pixels, where these begin, and whether both are worth keeping.

    As a rule the start of the file is enough. If it is not, or if anything is odd, the whole file
    is looked through, now and again for its pixels. Of a small file the pixels are read too.
    """
    from pydicom.filereader import read_partial

    start = raw.read(_START)
    file = io.BytesIO(start)
    small = size <= len(start)
    if start[128:132] == b"DICM" and _transfer_syntax(memoryview(start)[132:]) not in _ODD:
        try:
            tags = read_partial(file, None if small else _at_pixels, specific_tags=wanted)
        except Exception:  # told when it happens again
            tags = None
        at = None if small or tags is None else _pixels_at(tags, start, file.tell())
        if tags is not None and (small or at is not None):
            tags.buffer = None  # it would keep the file's bytes
            return tags, at, True
    with opened(path) as whole:
        return read_partial(whole, _at_pixels, specific_tags=wanted), None, False


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in _PIXELS


def _pixels_at(tags: Any, start: bytes, at: int) -> int | None:  # noqa: ANN401 - pydicom's
    """That place, if pixels begin there, written in the way that the head is."""
    if at + _ELEMENT > len(start):
        return None
    implicit, little = tags.original_encoding
    group, element, kind = struct.unpack_from("<HH2s" if little else ">HH2s", start, at)
    plain = implicit == (kind not in _LONG)
    return at if (group << 16 | element) in _PIXELS and plain else None


def with_pixels(head: Head) -> Any:  # noqa: ANN401 - pydicom's
    """All that is needed for a file's pixels, as pydicom has it.

    Raises:
        DataError: The file was changed since its head was read, or is no DICOM file.
    """
    from pydicom.dataset import Dataset
    from pydicom.filereader import data_element_generator

    if head.kept is not None and head.pixels is None:
        return head.kept
    with io.FileIO(os.fspath(head.path)) as raw:
        if state_in(os.fstat(raw.fileno())) != head.state:
            raise DataError(
                "was changed while it was read",
                todo="read the data again",
                where=str(head.path),
            )
        if head.kept is None:
            with opened(head.path) as whole:
                return pydicom().dcmread(whole, specific_tags=tags_of(PIXEL_TAGS))
        file = _Bounded(raw, head.state[0])
        file.seek(head.pixels or 0)
        implicit, little = head.kept.original_encoding
        elements = data_element_generator(file, implicit, little, specific_tags=[*_PIXELS])
        found = Dataset({**dict(head.kept.items()), **{one.tag: one for one in elements}})
    found.file_meta = head.kept.file_meta
    found.set_original_encoding(implicit, little)
    return found


def _values(tags: Any, keywords: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401 - pydicom's
    """What is there of it."""
    return {
        keyword: _value(tags, tag)
        for keyword, tag in zip(keywords, tags_of(keywords), strict=True)
        if tag in tags
    }


def _value(tags: Any, tag: Any) -> Any:  # noqa: ANN401 - pydicom's
    """A value; pydicom makes sense of it, unless it is of a kind where that is plain, and slow."""
    found = tags.get_item(tag)
    raw = found.value if getattr(found, "is_raw", False) else None
    if not isinstance(raw, bytes):
        return tags[tag].value
    match found.VR:
        case "US" if len(raw) == 2:
            return int.from_bytes(raw, "little" if found.is_little_endian else "big")
        case "CS" if _WORD.fullmatch(raw):
            return raw.decode("ascii").strip(" ")
        case "IS" if _WHOLE.fullmatch(raw):
            return int(raw)
        case "DS" if _REALS.fullmatch(raw):
            return tuple(map(float, raw.split(b"\\")))
        case "UI" if _UID.fullmatch(raw):
            return raw.decode("ascii").rstrip("\0")
        case _:
            return tags[tag].value
