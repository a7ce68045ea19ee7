"""From a DICOM file to pixels from 0 to 1: modality LUT, the study's window, inversion, colour."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.dicom_files import Head, reading, with_pixels
from fedward.client.data.faults import Unreadable
from fedward.client.data.images import MOST_PIXELS, Pixels, refuse_size, windowed
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow makes grey of colour


class _Values(NamedTuple):
    """Pixels of a frame, shape (height, width) or (height, width, 3), and their possible range."""

    values: NDArray[np.generic]
    low: float
    high: float


class PixelReader:
    """Reads frames of DICOM files; the file that was read last stays in memory.

    Attributes:
        data: The study's.
    """

    def __init__(self, data: ImageData) -> None:
        self.data = data
        self._last: tuple[str, Any] | None = None

    def read(self, head: Head, frame: int) -> Pixels:
        """A frame from 0 to 1, shape (channels, height, width), of its own size.

        Raises:
            Unreadable: The file is damaged, or of a kind that nothing decodes.
            DataError: Its decoder is not installed, or its size or colours are not the study's.
        """
        with reading(head.path):
            dataset = self._dataset(head)
            if len(self.data.shape) == 3:
                refuse_size(head.size, self.data, str(head.path))
            _refuse_impossible(dataset, head.size, head, frame)
            found = _values(dataset, _decoder(dataset, head), frame, head)
            return self._unit(found, dataset, head)

    def positions(self, head: Head) -> list[tuple[float, ...] | None]:
        """Where each frame of a file lies in the patient, if the file says so (mm)."""
        with reading(head.path):
            dataset = self._dataset(head) if head.kept is None else head.kept
            groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
            return [_position(group) for group in groups]

    def _dataset(self, head: Head) -> Any:  # noqa: ANN401 - pydicom's
        if head.kept is not None and head.pixels is None:
            return head.kept
        last = self._last
        if last is None or last[0] != head.relative:
            self._last = last = None  # room for the next one
            last = (head.relative, with_pixels(head))
            self._last = last if head.frames > 1 else None
        return last[1]

    def _unit(self, found: _Values, dataset: Any, head: Head) -> Pixels:  # noqa: ANN401
        window = self.data.window
        middle, width = window or ((found.low + found.high) / 2, found.high - found.low)
        if not width > 0:
            raise ValueError
        plain = window is None and found.values.dtype.kind == "f" and not np.isfinite(found.high)
        unit: Pixels = (
            found.values.astype(np.float32) if plain else windowed(found.values, middle, width)
        )
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            unit = np.float32(1) - unit
        return _in_channels(unit, self.data.shape[0], head)


def _position(group: Any) -> tuple[float, ...] | None:  # noqa: ANN401 - pydicom's
    places = group.get("PlanePositionSequence") or [{}]
    position = places[0].get("ImagePositionPatient")
    return None if position is None or len(position) != 3 else tuple(map(float, position))


def _values(dataset: Any, decoder: Any, frame: int, head: Head) -> _Values:  # noqa: ANN401 - pydicom's
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    try:
        array = decoder.as_array(dataset, index=frame, view_only=True)[0]
    except RuntimeError:  # every decoder gave up; their words may quote the file
        missing = _missing(dataset)
        raise Unreadable(
            f"no installed decoder reads these pixels ({_syntax(dataset).name})",
            todo=f"it is damaged, or needs another: {missing}" if missing else "export it anew",
            where=str(head.path),
        ) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what decoders written in Rust raise
            raise
        raise Unreadable(
            "a decoder broke off at these pixels", todo="export it anew", where=str(head.path)
        ) from None
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(array, dataset)
        return _Values(colours, 0, 2.0 ** (8 * colours.dtype.itemsize) - 1)
    if array.dtype.kind == "f":
        return _Values(array, -np.inf, np.inf)
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if array.ndim == 3:
        return _Values(array, low, high)
    if lut := _of(dataset, "ModalityLUTSequence"):
        values = apply_modality_lut(array, dataset)
        return _Values(values, 0, 2.0 ** int(lut[0].LUTDescriptor[2]) - 1)
    slope, intercept = _rescale(dataset, frame)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    if (slope, intercept) == (1.0, 0.0):
        return _Values(array, *ends)
    return _Values(array * slope + intercept, *ends)


def _rescale(dataset: Any, frame: int) -> tuple[float, float]:  # noqa: ANN401 - pydicom's
    """Slope and intercept; enhanced files have them for each frame, or for all at once."""
    each = _of(dataset, "PerFrameFunctionalGroupsSequence") or []
    of_frame = [each[frame]] if frame < len(each) else []
    for group in (*of_frame, *(_of(dataset, "SharedFunctionalGroupsSequence") or [])):
        for item in group.get("PixelValueTransformationSequence") or []:
            return float(item.RescaleSlope), float(item.RescaleIntercept)
    slope = _of(dataset, "RescaleSlope")
    if slope is None:
        return 1.0, 0.0
    return float(slope), float(_of(dataset, "RescaleIntercept") or 0)


def _of(dataset: Any, keyword: str) -> Any:  # noqa: ANN401 - pydicom's
    """A value; None if it is not there, which `get` takes several times as long to find out."""
    return dataset.get(keyword) if keyword in dataset else None


def _in_channels(unit: Pixels, channels: int, head: Head) -> Pixels:
    """Grey as often as asked for; colour as it is, or made grey."""
    if unit.ndim == 2:
        return unit[None] if channels == 1 else np.repeat(unit[None], channels, axis=0)
    if channels == 1:
        grey: Pixels = (unit @ _LUMA).astype(np.float32)[None]
        return grey
    if channels != unit.shape[-1]:
        raise DataError(
            f"has {unit.shape[-1]} colours, but the study asks for {channels} channels",
            todo="point [data] in hospital.toml to the right files",
            where=str(head.path),
        )
    return np.ascontiguousarray(np.moveaxis(unit, -1, 0))


# --- What is refused before any room is made ------------------------------------------------------


def _refuse_impossible(
    dataset: Any,  # noqa: ANN401 - pydicom's
    size: tuple[int, int],
    head: Head,
    frame: int,
) -> None:
    """Raise if the head claims more pixels than there can be."""
    one = size[0] * size[1] * int(dataset.SamplesPerPixel)
    bits = int(dataset.BitsAllocated)
    pixels = next(
        (k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if k in dataset), None
    )
    if pixels is None:
        raise Unreadable("holds no pixels", todo="take it out", where=str(head.path))
    if not 0 < one <= MOST_PIXELS or not 0 < bits <= 64:
        raise _claims(head, f"{one} values of {bits} bits a frame")
    held = dataset[pixels].value
    if not _syntax(dataset).is_encapsulated:
        needed = one * head.frames * bits // 8
        if dataset.PhotometricInterpretation == "YBR_FULL_422":
            needed = needed * 2 // 3
        if needed > len(held) + 1:
            raise _claims(head, f"{needed} bytes of pixels and has {len(held)}")
        return
    if head.frames > len(held) // 8:  # each frame has an item with a head of 8 bytes
        raise _claims(head, f"{head.frames} frames in {len(held)} bytes")
    from pydicom.encaps import get_frame

    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    stream = get_frame(
        held,
        frame,
        number_of_frames=head.frames,
        extended_offsets=None if None in offsets else offsets,
    )
    inside = _stream_size(stream)
    if inside is not None and inside != size:
        raise _claims(head, f"{size[0]} x {size[1]} pixels, its stream {inside}")


def _claims(head: Head, what: str) -> Unreadable:
    return Unreadable(f"claims {what}", todo="export it anew, or take it out", where=str(head.path))


def _stream_size(stream: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, JPEG-LS or JPEG 2000 stream itself claims; None for others."""
    if stream[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SIZ comes first
        width, height, left, top = struct.unpack_from(">4I", stream, 8)
        return height - top, width - left
    if stream[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in {0xFF, *range(0xD0, 0xD8), 0x01}:  # fill bytes, and markers alone
            at += 1 if marker == 0xFF else 2
            continue
        if marker in {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}:  # a start of frame
            height, width = struct.unpack_from(">HH", stream, at + 5)
            return height, width
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def _syntax(dataset: Any) -> Any:  # noqa: ANN401 - pydicom's
    return dataset.file_meta.TransferSyntaxUID


def _missing(dataset: Any) -> str:  # noqa: ANN401 - pydicom's
    from pydicom.pixels.decoders.base import get_decoder

    needs = get_decoder(_syntax(dataset)).missing_dependencies
    return "; ".join(need.replace(" - requires", ": pip install") for need in needs)


def _decoder(dataset: Any, head: Head) -> Any:  # noqa: ANN401 - pydicom's
    """What decodes the file's compression, of what is installed."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = _syntax(dataset)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Unreadable(
            f"no decoder is known for its transfer syntax, {syntax.name}",
            todo="export it in another",
            where=str(head.path),
        ) from None
    if not decoder.is_available:
        raise DataError(
            f"needs a decoder that is not installed, for its transfer syntax, {syntax.name}",
            todo=f"pip install 'fedward[imaging]', or one of: {_missing(dataset)}",
            where=str(head.path),
        )
    return decoder
