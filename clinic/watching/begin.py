"""Which of a service's models are watched, and from what reference."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedward.clinic.watching.kept_scores import Bounds
from fedward.clinic.watching.reference import Reference, read_reference
from fedward.clinic.watching.watch import Model, Watch
from fedward.study.errors import DataError, OptionError

ENDING = ".reference.json"
"""Of a reference that lies beside its model, in place of the model's `.onnx`."""

_FOLDER = "watched"
_LEAST = 1.0  # seconds to write what was counted


class Wanted(NamedTuple):
    """How a service watches.

    Attributes:
        references: Files; those that lie beside a model are found.
        state: Folder of the counts; beside each reference if None.
        window: Records after which older ones begin to be forgotten.
        keep: How many answers are kept for labels that come later; None for none.
    """

    references: Sequence[Path] = ()
    state: Path | None = None
    window: int = 1000
    keep: Bounds | None = None


def begin(models: Mapping[Path, Model], wanted: Wanted) -> dict[str, Watch]:
    """Watch all models that there is a reference of; each must be closed in the end.

    Args:
        models: By their files.
        wanted: How.

    Raises:
        OptionError: A reference is of no model here, or a folder cannot be used.
        DataError: A file cannot be read.
    """
    given = {path: read_reference(path) for path in wanted.references}
    for path, reference in given.items():
        if not any(_is_of(reference, model) for model in models.values()):
            raise OptionError(
                "is the reference of no model here",
                todo="give the one that fedward reference made of the model's run",
                where=str(path),
            )
    watches: dict[str, Watch] = {}
    try:
        for file, model in models.items():
            found = _reference(file, model, given)
            if found is not None:
                watches[model.name] = _watch(model, *found, wanted)
    except BaseException:
        close(watches)
        raise
    if wanted.keep is not None and not watches:
        raise OptionError("--keep-scores without a watched model", todo="give --watch REFERENCE")
    return watches


def close(watches: Mapping[str, Watch], within: float = 60.0) -> None:
    """End all of them within so many seconds; what they have counted is written."""
    until = time.monotonic() + within
    for watch in watches.values():
        watch.close(max(_LEAST, until - time.monotonic()))


def _is_of(reference: Reference, model: Model) -> bool:
    return reference.is_of(model.study.digest(), model.weights)


def _reference(
    file: Path, model: Model, given: Mapping[Path, Reference]
) -> tuple[Path, Reference] | None:
    for path, reference in given.items():
        if _is_of(reference, model):
            return path, reference
    beside = file.with_suffix(ENDING)
    return (beside, read_reference(beside)) if beside.is_file() else None


def _watch(model: Model, path: Path, reference: Reference, wanted: Wanted) -> Watch:
    state = path.parent / _FOLDER if wanted.state is None else wanted.state
    try:
        return Watch(model, reference, state, window=wanted.window, keep=wanted.keep)
    except DataError as error:
        raise DataError(error.what, todo=error.todo, where=error.where or str(path)) from None
