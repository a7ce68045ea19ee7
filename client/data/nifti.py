"""NIfTI: a folder of volumes with a table of labels or of masks.

nibabel alone turns a volume and reads its numbers; MONAI would call it for that, and weighs more.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.client.data.decoded import Keys, decoded
from fedward.client.data.extras import need
from fedward.client.data.faults import Unreadable
from fedward.client.data.images import (
    MOST_PIXELS,
    Pixels,
    allowing,
    as_the_study_says,
    how,
    images_of,
    mask_as_the_study_says,
    mask_key,
    masks,
    to_unit,
)
from fedward.client.data.labelled import LabelTable, read_labels
from fedward.client.data.labels import Mask
from fedward.client.data.named_files import NamedFile, files_of
from fedward.client.data.records import RawRecords, numbered, without_faulty
from fedward.client.data.sources import NiftiSource
from fedward.client.data.stored import Stored
from fedward.client.data.subgroups import cells_in_table
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData
from fedward.study.study import Study
from fedward.study.task import SegmentationTask

_SUFFIXES = (".nii", ".nii.gz")
_MOST_EXTRA = 2**24  # bytes between the head and the numbers
_SAME_PLACE = 1e-2  # mm, or mm a voxel, between the grids of an image and its mask


class _Volume(NamedTuple):
    """Numbers with channels first, then z, y, x (feet to head, back to front, left to right).

    Attributes:
        values: Shape (channels, depth, height, width).
        grid: From voxels to mm, shape (4, 4).
    """

    values: NDArray[np.generic]
    grid: NDArray[np.float64]


def read_nifti(source: NiftiSource, study: Study, context: Context) -> RawRecords:
    """The volumes that a study asks for, turned to RAS.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of files that cannot be used.

    Raises:
        DataError: A file or a label is not as the study needs it; the message names the file.
        OptionError: nibabel is not installed.
    """
    need("nibabel", extra="imaging")
    folder = context.folder / source.path
    data, task = images_of(study.data, str(folder)), study.task
    context = allowing(data, context)
    faults = context.faults
    table = read_labels(folder / source.labels) if source.labels else None
    files, columns = _listed(folder, source, table, study)
    owner = source.patient_column(table.columns if table else ())
    names = np.array(
        table.column(owner)
        if table is not None and owner is not None
        else [file.path.relative_to(folder).as_posix() for file in files],
        dtype=str,
    )
    inputs = decoded(
        Keys(len(files), lambda row: files[row].key(folder, how(data))),
        lambda row: _record(files[row], data),
        data.shape,
        np.float32,
        context,
    )
    part = source.column("part")
    parts = table.column(part) if table is not None and part in table.columns else []
    found = RawRecords(
        inputs=inputs,
        labels=_masks(folder, files, files_of(folder, columns[0], table), data, task, context)
        if isinstance(task, SegmentationTask) and table is not None
        else targets(
            columns,
            data,
            task,
            where=str(table.path if table else folder),
            rows=range(len(files)),
            faults=faults,
        ),
        patients=numbered(names),
        names=names,
        rows=np.arange(len(files)),
        parts=np.array(parts, dtype=str) if parts and all(parts) else None,
        cells=cells_in_table(study, source, table, where=str(folder)),
    )
    return without_faulty(found, faults)


def _listed(
    folder: Path, source: NiftiSource, table: LabelTable | None, study: Study
) -> tuple[list[NamedFile], list[list[str]]]:
    """The files, and the label's columns."""
    wanted = study.data.label_columns
    if table is not None:
        files = files_of(folder, table.column(source.column("file")), table)
        return files, [table.column(source.column(name)) for name in wanted]
    if not folder.is_dir():
        raise DataError("no such folder", todo="check the path", where=str(folder))
    if wanted or source.named_by is not None:
        raise DataError(
            "nothing says the labels or patients of these files",
            todo="give a table: labels in hospital.toml",
            where=str(folder),
        )
    found = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(_SUFFIXES))
    if not found:
        raise DataError("holds no NIfTI files", todo="check the path", where=str(folder))
    return [NamedFile.found(file) for file in found], []


def _record(file: NamedFile, data: ImageData) -> Pixels:
    volume = _volume(file)
    values = _as_many_dimensions(volume.values, data)
    if len(values) != data.shape[0]:
        raise DataError(
            f"has {len(values)} channels",
            todo=f"the study needs {data.shape[0]}",
            where=str(file.path),
        )
    return as_the_study_says(to_unit(values, data), data, str(file.path))


def _as_many_dimensions(values: NDArray[np.generic], data: ImageData) -> NDArray[np.generic]:
    """One layer is a flat image where the study asks for such."""
    return values[:, 0] if len(data.shape) == 3 and values.shape[1] == 1 else values


def _masks(
    folder: Path,
    images: Sequence[NamedFile],
    files: Sequence[NamedFile],
    data: ImageData,
    task: SegmentationTask,
    context: Context,
) -> Mask | Stored:
    """The masks of images."""

    def key(row: int) -> str:
        return mask_key(images[row].key(folder), files[row].key(folder), data, task)

    def read(row: int) -> Mask:
        image, mask = _volume(images[row]), _volume(files[row])
        return _mask(image, mask, data, task, files[row].path)

    return masks(read, Keys(len(files), key), data, task, context)


def _mask(of: _Volume, mask: _Volume, data: ImageData, task: SegmentationTask, file: Path) -> Mask:
    if not np.allclose(of.grid, mask.grid, atol=_SAME_PLACE):
        raise DataError(
            "this mask lies elsewhere than its image (their affine matrices differ)",
            todo="resample it onto the image's grid",
            where=str(file),
        )
    (values,) = _as_many_dimensions(mask.values, data)[:1]
    shape = _as_many_dimensions(of.values, data).shape[1:]
    return mask_as_the_study_says(values, shape, data, task, str(file))


# --- Files ----------------------------------------------------------------------------------------


def _volume(found: NamedFile) -> _Volume:
    """A file's numbers, turned to RAS.

    Raises:
        Unreadable: It is damaged, or claims more than it holds.
        DataError: It is not there or not in the folder, or was changed.
    """
    nibabel, file = need("nibabel", extra="imaging"), found.path
    try:
        with warnings.catch_warnings(), found.opened() as stream:
            warnings.simplefilter("ignore")
            image = nibabel.as_closest_canonical(_image(file, stream, found.state[0], nibabel))
            array = np.asanyarray(image.dataobj)  # with slope and intercept, if there are such
            return _Volume(_channels_first(array, file), np.array(image.affine, np.float64))
    except FileNotFoundError:
        raise DataError("no such file", todo="check the labels", where=str(file)) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make nibabel raise errors of every kind
        raise Unreadable(
            f"cannot be read as NIfTI ({type(error).__name__})",
            todo="export it anew, or take it out",
            where=str(file),
        ) from None


def _image(file: Path, stream: IO[bytes], held: int, nibabel: Any) -> Any:  # noqa: ANN401 - nibabel's
    """The file, from bytes whose number was held against what its head claims."""
    packed = file.name.lower().endswith(".gz")
    start = _bytes(stream, 540, packed=packed)
    kind = next(
        (
            k
            for k in (nibabel.Nifti1Image, nibabel.Nifti2Image)
            if k.header_class.may_contain_header(start)
        ),
        None,
    )
    if kind is None:
        raise _claims(file, "to be something else than a NIfTI file")
    head = kind.header_class.from_fileobj(io.BytesIO(start), check=False)
    shape = [int(n) for n in head.get_data_shape()]
    count = int(np.prod([float(n) for n in shape])) if shape else 0
    if not 0 < count <= MOST_PIXELS or min(shape) < 1:
        raise _claims(file, f"{shape} voxels")
    offset = float(head["vox_offset"])
    if not 0 <= offset <= _MOST_EXTRA:
        raise _claims(file, "to begin far behind its head")
    needed = int(max(offset, head.sizeof_hdr)) + count * head.get_data_dtype().itemsize
    if not packed and needed > held:
        raise _claims(file, f"{needed} bytes and has {held}")
    content = _bytes(stream, needed, packed=packed)
    if len(content) < needed:
        raise _claims(file, f"{needed} bytes and has {len(content)}")
    return kind.from_bytes(content)


def _claims(file: Path, what: str) -> Unreadable:
    return Unreadable(f"claims {what}", todo="export it anew, or take it out", where=str(file))


def _bytes(stream: IO[bytes], most: int, *, packed: bool) -> bytes:
    """The first bytes of a file, at most so many: however much a gzip stream would unfold to."""
    stream.seek(0)
    if not packed:
        return stream.read(most)
    unfold, found = zlib.decompressobj(wbits=31), bytearray()
    while len(found) < most and not unfold.eof:
        piece = unfold.unconsumed_tail or stream.read(2**16)
        if not piece:
            break
        found += unfold.decompress(piece, most - len(found))
    return bytes(found)


def _channels_first(array: NDArray[Any], file: Path) -> NDArray[np.generic]:
    """From x, y, z and, if there are such, channels, to channels, z, y, x."""
    if array.dtype.kind not in "uif":
        raise DataError(
            f"voxels of type {array.dtype}", todo="give whole or real numbers", where=str(file)
        )
    if array.ndim == 5 and array.shape[3] == 1:  # vectors
        array = array[:, :, :, 0]
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise DataError(
            f"has {array.ndim} dimensions", todo="give 3, or 4 with channels", where=str(file)
        )
    return np.transpose(array, (3, 2, 1, 0))
