"""The studies that a hospital takes part in: those whose file is in its folder of studies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedward.models.registry import read_settled
from fedward.study.errors import InputError, RefusedError
from fedward.study.study import Study

_LOG = logging.getLogger("fedward.client")


class Approval(NamedTuple):
    """The file that approved a study, as it was when it was read."""

    path: Path
    changed: int

    def holds(self) -> bool:
        """Whether the file still stands unchanged: a warm process must notice a withdrawal."""
        return self.path.exists() and self.path.stat().st_mtime_ns == self.changed


def approved_files(folder: Path) -> Iterator[tuple[Study, Path]]:
    """Every approved study with its file; what is no study approves nothing, and is logged."""
    for path in sorted(folder.glob("*.toml")):
        try:
            yield read_settled(path), path
        except InputError as error:
            _LOG.warning("not an approval: %s", error)


def approved_study(folder: Path, digest: str) -> tuple[Study, Path]:
    """The approved study with this digest, and its file.

    Raises:
        RefusedError: No file in the folder is that study.
    """
    for study, path in approved_files(folder):
        if study.digest() == digest:
            return study, path
    raise RefusedError(
        f"study {digest[:12]} is not approved here",
        todo=f"read it there: fedward hospital studies {digest[:12]}; only then: fedward hospital "
        f"approve {digest[:12]}",
    )


def is_approved(folder: Path, digest: str) -> bool:
    """Whether a file in the folder is the study with this digest."""
    try:
        approved_study(folder, digest)
    except RefusedError:
        return False
    return True
