"""DICOM files of a folder: which there are, and what their heads say.

What pydicom warns of and raises quotes values, which name people: none of it passes from here. What
a file claims is held against its size before anything is read at that length.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from fedward.client.data.extras import need
from fedward.client.data.faults import Unreadable
from fedward.study.errors import DataError

SUFFIXES = {".dcm", ".dicom", ".ima"}
_INDEX = "1.2.840.10008.1.3.10"  # Media Storage Directory: lists files, and is no record
_DEFLATED = "1.2.840.10008.1.2.1.99"
_AT_ONCE = 2**21  # bytes of a file that is read in one go
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
_MOST_META = 2**20  # bytes of File Meta Information
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
_SMALL = 2**21  # bytes of a file that is worth reading once only
_MOST_KEPT = 2**28  # bytes of such files that are kept until their pixels are asked for


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
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A DICOM file to read from, its transfer syntax known to be one that is read.

    Raises:
        Unreadable: It is no DICOM file, or a deflated one.
    """
    size = path.stat().st_size
    with io.FileIO(path) as raw:
        content = raw.read(_AT_ONCE) if size <= _AT_ONCE else b""
        file: IO[bytes] = io.BytesIO(content) if content else _Bounded(raw, size)
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
        tags: The values of `HEAD` and of the patient's tag that it has, as pydicom has them.
        fault: Why it holds no image; None if it does.
        whole: Whether the tags have the pixels and their description too.
    """

    path: Path
    relative: str
    tags: Any
    fault: DataError | None = None
    whole: bool = False

    def text(self, keyword: str) -> str:
        """A value as text; empty if it is not there."""
        value = None if self.tags is None else self.tags.get(keyword)
        return "" if value is None else str(value).strip()

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """So many numbers; None if they are not there."""
        value = None if self.tags is None else self.tags.get(keyword)
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
        stat = self.path.stat()
        return f"{self.relative} {stat.st_size} {stat.st_mtime_ns}"


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
        size = path.stat().st_size
        whole = size <= _SMALL and kept + size <= _MOST_KEPT
        kept += size if whole else 0
        heads.append(_head(path, path.relative_to(folder).as_posix(), also, whole=whole))
    return [head for head in heads if head.text("SOPClassUID") != _INDEX]


def _head(path: Path, relative: str, also: Sequence[str], *, whole: bool) -> Head:
    try:
        with reading(path), opened(path) as file:
            wanted = (*HEAD, *also, *PIXEL_TAGS) if whole else (*HEAD, *also)
            tags = pydicom().dcmread(
                file, stop_before_pixels=not whole, specific_tags=tags_of(wanted)
            )
            for keyword in (*HEAD, *also):  # values are made sense of when they are asked for
                tags.get(keyword)
            head = Head(path, relative, tags, whole=whole)
            if head.frames < 1:
                raise ValueError
            if not head.text("Rows"):
                kind = head.tags.get("SOPClassUID")
                name = kind.name if kind is not None else "of an unknown kind"
                raise Unreadable(
                    f"holds no image ({name})", todo="take it out of the folder", where=str(path)
                )
            _ = head.size  # whole numbers
            return head
    except DataError as error:
        return Head(path, relative, None, error)
