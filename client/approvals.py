"""The studies that a hospital takes part in: those whose file is in its folder of studies."""

from __future__ import annotations

from pathlib import Path

from fedward.study.errors import RefusedError
from fedward.study.study import Study, read_study


def approved_study(folder: Path, digest: str) -> Study:
    """The approved study with this digest.

    Raises:
        RefusedError: No file in the folder is that study.
    """
    for path in sorted(folder.glob("*.toml")):
        study = read_study(path)
        if study.digest() == digest:
            return study
    raise RefusedError(
        f"study {digest[:12]} is not approved here",
        todo=f"read the study, and put its file into the folder {folder.name} to approve it",
    )
