"""DICOM: a folder of files, each an image, or many of them a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.client.data.decoded import SMALL, Keys, decoded
from fedward.client.data.deidentify import may_be_burnt_in
from fedward.client.data.dicom_files import Head, heads_of, pydicom
from fedward.client.data.dicom_pixels import PixelReader
from fedward.client.data.faults import Faults
from fedward.client.data.images import (
    Pixels,
    allowing,
    as_the_study_says,
    how,
    images_of,
    refuse_size,
)
from fedward.client.data.labelled import LabelTable, read_labels
from fedward.client.data.pictures import Picture, flat_pictures, listed, volumes
from fedward.client.data.records import Fact, RawRecords, numbered, without_faulty
from fedward.client.data.sources import DicomSource
from fedward.client.data.subgroups import cells_in_table
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.study import Study

_PLAIN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_LARGE = 2**20  # bytes of a picture whose numbers take longer than its head, which Python reads


class _Found(NamedTuple):
    """Pictures, each a record, with what is said of them.

    Attributes:
        folder: That they are in.
        pictures: In the order of the files, or of the table.
        table: Of the labels; None if the folders are the classes.
        rows: Of the table, one for each picture; empty without a table.
        tag: Keyword of the tag that names the patient; None if a column does, or nobody.
        facts: What was seen in all files.
    """

    folder: Path
    pictures: Sequence[Picture]
    table: LabelTable | None
    rows: Sequence[int]
    tag: str | None
    facts: tuple[Fact, ...]

    def column(self, name: str) -> list[str]:
        """A column of the table, one value for each picture."""
        if self.table is None:
            raise DataError(
                f"no table says the column {name!r}",
                todo="give one: labels in hospital.toml",
                where=str(self.folder),
            )
        values = self.table.column(name)
        return [values[row] for row in self.rows]


def read_dicom(source: DicomSource, study: Study, context: Context) -> RawRecords:
    """The images or volumes that a study asks for.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of files that cannot be used.

    Raises:
        DataError: A file or a label is not as the study needs it; the message names the file.
        OptionError: pydicom is not installed.
    """
    pydicom()
    folder = context.folder / source.path
    data = images_of(study.data, str(folder))
    context = allowing(data, context)
    faults, reader = context.faults, PixelReader(data)
    found = _found(folder, source, reader, deep=len(data.shape) == 4)
    pictures = found.pictures
    for row, picture in enumerate(pictures):
        if picture.fault is not None:
            faults.add(picture.fault, row)
    inputs = decoded(
        Keys(len(pictures), lambda row: f"{pictures[row].key} {how(data)}"),
        lambda row: _pixels(pictures[row], reader, data.shape, folder),
        data.shape,
        np.float32,
        context,
        threads_from=_LARGE if all(map(_plain, pictures)) else SMALL,
    )
    names = _names(found, source, faults)
    cells = cells_in_table(study, source, found.table, where=str(folder))
    raw = RawRecords(
        inputs=inputs,
        labels=targets(
            _labels(found, source, study),
            data,
            study.task,
            where=str(found.table.path if found.table else folder),
            rows=range(len(pictures)),
            faults=faults,
        ),
        patients=numbered(names),
        names=names,
        rows=np.arange(len(pictures)),
        parts=_parts(found, source),
        facts=found.facts,
        cells=None if cells is None else cells[found.rows],
    )
    return without_faulty(raw, faults)


def _found(folder: Path, source: DicomSource, reader: PixelReader, *, deep: bool) -> _Found:
    table = read_labels(folder / source.labels) if source.labels else None
    tag = _patient_tag(source, table, folder)
    heads = heads_of(folder, () if tag is None else (tag,))
    if not heads:
        raise DataError("holds no DICOM files", todo="check the path", where=str(folder))
    facts = tuple(_seen(heads))
    pictures = (
        volumes(heads, source.frames, reader.positions)
        if deep
        else flat_pictures(heads, source.frames)
    )
    if table is None:
        return _Found(folder, pictures, None, (), tag, facts)
    named = listed(pictures, table, source.column("file"), folder)
    if unnamed := len(pictures) - len(
        {picture.name for picture, _ in named} & {p.name for p in pictures}
    ):
        text = f"{unnamed} images are in no row of {table.path.name}"
        facts = (*facts, Fact("not listed", text))
    rows = [row for _, row in named]
    return _Found(folder, [picture for picture, _ in named], table, rows, tag, facts)


def _patient_tag(source: DicomSource, table: LabelTable | None, folder: Path) -> str | None:
    """The tag that names the patient, unless a column of the table does."""
    named_by = source.named_by
    columns = table.columns if table else ()
    if named_by is None or source.patient_column(columns) in columns:
        return None
    if pydicom().datadict.tag_for_keyword(named_by) is None:
        raise DataError(
            f"patient = {named_by!r} is neither a DICOM keyword nor a column of the labels",
            todo=f"columns found: {', '.join(columns) or 'none'}",
            where=str(folder),
        )
    return named_by


def _seen(heads: Sequence[Head]) -> Iterator[Fact]:
    """Kinds of machines, sizes, and where names may be burnt into the pixels."""
    good = [head for head in heads if head.fault is None]
    machines = Counter(head.text("Modality") or "unknown" for head in good)
    yield Fact("modality", ", ".join(f"{name} {n}" for name, n in sorted(machines.items())))
    sizes = Counter(f"{head.text('Columns')} x {head.text('Rows')}" for head in good)
    common = ", ".join(f"{size} ({n})" for size, n in sizes.most_common(5))
    yield Fact("sizes", common + (f", {len(sizes) - 5} others" if len(sizes) > 5 else ""))
    burnt = sum(head.text("BurnedInAnnotation").upper() == "YES" for head in good)
    if burnt:
        yield Fact("look at", f"{burnt} files say that words are burnt into their pixels")
    if silent := sum(may_be_burnt_in(head.text) for head in good) - burnt:
        yield Fact(
            "look at",
            f"{silent} files do not say whether words are burnt into their pixels, and are of "
            "machines that often do it",
        )


def _names(found: _Found, source: DicomSource, faults: Faults) -> NDArray[np.str_]:
    """What the hospital calls each record's patient."""
    column = source.patient_column(found.table.columns if found.table else ())
    if column is None:
        return np.array([picture.name for picture in found.pictures], dtype=str)
    if found.tag is None:
        return np.array(found.column(column), dtype=str)
    names = []
    for row, picture in enumerate(found.pictures):
        called = {head.text(found.tag) for head in picture.heads}
        usable = picture.fault is None
        if usable and (len(called) != 1 or "" in called):
            what = (
                f"names no patient ({found.tag} is empty)"
                if "" in called
                else f"its series has slices of several patients ({found.tag})"
            )
            error = DataError(
                what,
                todo="set patient in hospital.toml to a column of the labels, or take it out",
                where=str(picture.heads[0].path),
            )
            faults.add(error, row)
            usable = False
        names.append(called.pop() if usable else picture.name)
    return np.array(names, dtype=str)


def _labels(found: _Found, source: DicomSource, study: Study) -> list[list[str]]:
    """The label's columns; without a table the folder that a file is in is its class."""
    wanted = study.data.label_columns
    if found.table is not None or len(wanted) > 1:
        return [found.column(source.column(name)) for name in wanted]
    classes = [
        picture.heads[0].relative.partition("/")[0] if "/" in picture.heads[0].relative else ""
        for picture in found.pictures
    ]
    return [classes][: len(wanted)]


def _parts(found: _Found, source: DicomSource) -> NDArray[np.str_] | None:
    part = source.column("part")
    if found.table is None or part not in found.table.columns:
        return None
    parts = found.column(part)
    return np.array(parts, dtype=str) if all(parts) else None


def _plain(picture: Picture) -> bool:
    """Whether its numbers are in the files as they are, and no library has to unpack them."""
    return picture.fault is not None or all(
        head.kept is not None and getattr(head.kept.file_meta, "TransferSyntaxUID", None) in _PLAIN
        for head in picture.heads
    )


def _pixels(picture: Picture, reader: PixelReader, shape: tuple[int, ...], folder: Path) -> Pixels:
    """One record as the model sees it; nothing where its fault was told already."""
    if picture.fault is not None:
        return np.zeros(shape, dtype=np.float32)
    where = str(folder / picture.heads[0].relative)
    if len(shape) == 4:
        refuse_size((len(picture.slices), *picture.heads[0].size), reader.data, where)
    frames = [reader.read(head, frame) for head, frame in picture.slices]
    unit = frames[0] if len(shape) == 3 else np.stack(frames, axis=1)
    return as_the_study_says(unit, reader.data, where)
