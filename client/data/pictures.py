"""What a record is made of: one frame of a DICOM file, or the slices of a volume in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedward.client.data.dicom_files import Head
from fedward.client.data.labelled import LabelTable
from fedward.client.data.named_files import path_in
from fedward.study.errors import DataError

_SAME_WAY = 1e-3  # between two orientations, each number from -1 to 1
_SAME_PLACE = 1e-3  # mm between two slices
_GAP = 1.5  # times the usual distance of two slices


class Picture(NamedTuple):
    """One image or volume.

    Attributes:
        name: Path of its file in the folder, with the frame's number where it has many; a volume's
            is its series' number.
        slices: Files and frames, in order.
        fault: Why it cannot be used; None if it can.
    """

    name: str
    slices: tuple[tuple[Head, int], ...]
    fault: DataError | None = None

    @property
    def key(self) -> str:
        """What its bytes are."""
        return " ".join(f"{head.key} {frame}" for head, frame in self.slices)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Its files, each once."""
        return tuple({head.relative: head for head, _ in self.slices}.values())

    @property
    def found_by(self) -> set[str]:
        """What a table of labels may call it."""
        called = {self.name}
        for head in self.heads:
            called |= {head.relative, head.text("SOPInstanceUID")}
        return called - {""}


def flat_pictures(heads: Sequence[Head], frames: str) -> list[Picture]:
    """Each file, or each frame of it, as an image.

    Args:
        heads: Of all files.
        frames: What to do with files of many frames.
    """
    found = []
    for head in heads:
        fault = head.fault
        if fault is None and head.frames > 1 and frames != "each":
            fault = _many_frames(head, "each")
        if fault is not None or head.frames == 1:
            found.append(Picture(head.relative, ((head, 0),), fault))
            continue
        found += [
            Picture(f"{head.relative}#{frame + 1}", ((head, frame),))
            for frame in range(head.frames)
        ]
    return found


def volumes(
    heads: Sequence[Head],
    frames: str,
    positions: Callable[[Head], list[tuple[float, ...] | None]],
) -> list[Picture]:
    """Series as volumes, their slices sorted by where they lie in the patient.

    Args:
        heads: Of all files.
        frames: What to do with files of many frames.
        positions: Gives where each frame of a file lies.
    """
    series: dict[str, list[Head]] = defaultdict(list)
    found = []
    for head in heads:
        if head.fault is not None:
            found.append(Picture(head.relative, ((head, 0),), head.fault))
        elif head.frames == 1:
            series[head.text("SeriesInstanceUID") or head.relative].append(head)
        elif frames == "volume":
            found.append(_whole_file(head, positions))
        else:
            found.append(Picture(head.relative, ((head, 0),), _many_frames(head, "volume")))
    for name, some in series.items():
        try:
            found.append(Picture(name, tuple((head, 0) for head in _in_space(some))))
        except DataError as error:
            found.append(Picture(name, tuple((head, 0) for head in some), error))
    return sorted(found, key=lambda picture: picture.slices[0][0].relative)


def _many_frames(head: Head, instead: str) -> DataError:
    return DataError(
        f"has {head.frames} frames",
        todo=f'set frames = "{instead}" in [data] of hospital.toml',
        where=str(head.path),
    )


def _whole_file(head: Head, positions: Callable[[Head], list[tuple[float, ...] | None]]) -> Picture:
    order = range(head.frames)
    try:
        places = positions(head)
    except DataError as error:
        return Picture(head.relative, ((head, 0),), error)
    known = [place for place in places if place is not None]
    if len(known) == head.frames:
        # Along the line from the first frame to the one that is farthest from it.
        points = np.array(known)
        away = points - points[0]
        along = away @ away[np.argmax(np.linalg.norm(away, axis=1))]
        forward = points[np.argmax(along)] - points[np.argmin(along)]
        upward = forward[np.argmax(np.abs(forward))] >= 0
        order = np.argsort(along if upward else -along, kind="stable").tolist()
    return Picture(head.relative, tuple((head, frame) for frame in order))


def _in_space(heads: Sequence[Head]) -> list[Head]:
    """Slices of a series along their normal; by their number where they do not say where they lie.

    Raises:
        DataError: They cannot be one volume.
    """
    where = str(heads[0].path)
    if len({(head.text("Rows"), head.text("Columns")) for head in heads}) > 1:
        raise DataError(
            "its series has slices of several sizes", todo="take one of them out", where=where
        )
    ways = [head.numbers("ImageOrientationPatient", 6) for head in heads]
    places = [head.numbers("ImagePositionPatient", 3) for head in heads]
    if None in ways or None in places:
        return _by_number(heads)
    way = np.array(ways[0])
    if not np.allclose(np.array(ways), way, atol=_SAME_WAY):
        raise DataError(
            "its series has slices in several directions",
            todo="take the localizers out of it",
            where=where,
        )
    along = np.array(places) @ np.cross(way[:3], way[3:])
    order = np.argsort(along, kind="stable")
    gaps = [float(b - a) for a, b in pairwise(along[order])]
    if gaps and min(gaps) < _SAME_PLACE:
        at = heads[order[int(np.argmin(gaps))]]
        raise DataError(
            "another slice of its series lies at the same place",
            todo="take one of them out",
            where=str(at.path),
        )
    if gaps and max(gaps) > _GAP * float(np.median(gaps)):
        at = heads[order[int(np.argmax(gaps))]]
        raise DataError(
            f"the next slice of its series is {max(gaps):.3g} mm away, usual are "
            f"{float(np.median(gaps)):.3g}: one is missing",
            todo="export the series anew, or take it out",
            where=str(at.path),
        )
    return [heads[place] for place in order]


def _by_number(heads: Sequence[Head]) -> list[Head]:
    numbers = [head.text("InstanceNumber") for head in heads]
    if len(heads) > 1 and (not all(numbers) or len(set(numbers)) < len(numbers)):
        raise DataError(
            "its series says neither where its slices lie nor in which order",
            todo="take it out, or give the volume as one file",
            where=str(heads[0].path),
        )
    return sorted(heads, key=lambda head: float(head.text("InstanceNumber") or 0))


def listed(
    pictures: Sequence[Picture], table: LabelTable, column: str, folder: Path
) -> list[tuple[Picture, int]]:
    """The pictures that a table names, with the number of their row.

    This column of it has a path in the folder, a SOPInstanceUID, or for volumes a SeriesInstanceUID
    or any file of the series. A row that names a file of many frames is about all of them.
    """
    by_name: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        for name in picture.found_by:
            by_name[name].append(picture)
    found = []
    for row, said in enumerate(table.column(column) if table.rows else []):
        name = said.strip().replace("\\", "/")
        if some := by_name.get(name):
            found += [(picture, row) for picture in some]
        else:
            found.append((Picture(said, (), _not_there(folder, name, table.path, row)), row))
    return found


def _not_there(folder: Path, name: str, table: Path, row: int) -> DataError:
    try:
        path = path_in(folder, name, table, row)
    except DataError as error:
        return error
    return DataError(
        "no such DICOM file, nor object of that number",
        todo=f"check row {row + 1} of {table.name}",
        where=str(path),
    )
