"""What a watched model's files say to people: what may be shown, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedward.clinic.watching.counts import Kept
from fedward.clinic.watching.drift import Drift
from fedward.clinic.watching.folder import About, Figures, Watched, read
from fedward.clinic.watching.labelled import renewed
from fedward.study.errors import DataError, OptionError


class Watching(NamedTuple):
    """One model.

    Attributes:
        name: Of the model.
        about: What it is compared with.
        drifts: Of each histogram; none before there are enough records.
        missed: Records that were not counted.
        figures: What labels say; None if none have come.
    """

    name: str
    about: About
    drifts: tuple[Drift, ...]
    missed: int
    figures: Figures | None


def watching(folder: Path, name: str, labels: Path | None = None) -> Watching:
    """What the files of a model say.

    Args:
        folder: Of a service's counts.
        name: The model's.
        labels: What has come to be known; its figures are written down for the service's own too.

    Raises:
        DataError: A file cannot be read.
        OptionError: The labels cannot be used, or nothing can be written.
    """
    files = Watched(folder, name)
    about = read(files.about, About)
    if about is None:
        raise DataError("is not there", todo="serve the model again", where=str(files.about))
    kept = read(files.counts, Kept)
    if labels is None:
        figures = read(files.figures, Figures)
    else:
        try:
            figures = renewed(labels, about, files)
        except OSError as error:
            raise OptionError(
                f"cannot be written ({error.strerror})",
                todo="run it as the user that serves",
                where=str(files.figures),
            ) from None
    drifts, missed = ((), 0) if kept is None else (kept.shown, kept.missed)
    return Watching(name, about, drifts, missed, figures)


def as_json(found: Sequence[Watching]) -> bytes:
    """The same as a JSON document."""
    document = {
        each.name: {
            "study": each.about.digest,
            "fewest": each.about.fewest,
            "drift": [drift.model_dump(mode="json") for drift in each.drifts],
            "missed": each.missed,
            "unwatched": each.about.unwatched,
            "labelled": None if each.figures is None else each.figures.model_dump(mode="json"),
            "judged": each.about.judged,
        }
        for each in found
    }
    return json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"
