"""Pretrained models in folders of the machine's own: a study names one by its digest.

Nothing is ever fetched, and nothing but numbers and settings is read: `config.json`,
`model.safetensors` and `tokenizer.json`, as Hugging Face's libraries write them. No file with code
or pickles is opened, whatever else lies in the folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from fedward.study.errors import DataError, OptionError, StudyError
from fedward.study.study import Study

CONFIG, WEIGHTS, TOKENIZER = FILES = ("config.json", "model.safetensors", "tokenizer.json")
_LARGEST_CONFIG = 2**20  # bytes; BERT's has 600


def digest_of(folder: Path) -> str:
    """SHA-256 over the names, lengths and contents of a model's three files, in hexadecimal.

    Raises:
        DataError: A file is not there or cannot be read.
    """
    return _digest(folder.absolute(), tuple(_stamp(folder / name) for name in FILES))


def pretrained_by(study: Study) -> str:
    """The digest of the pretrained model that a study names.

    Raises:
        StudyError: It names none.
    """
    digest = study.model.settings.get("pretrained")
    if not isinstance(digest, str):
        raise StudyError(
            "model.pretrained",
            given="nothing" if digest is None else repr(digest),
            allowed="the digest of a pretrained model, 64 hexadecimal digits",
        )
    return digest


def find_pretrained(models: Path | None, digest: str) -> Path:
    """The folder of the model that has a digest.

    Args:
        models: That folder itself, or the one that it is in; None where none is named.
        digest: As the study gives it.

    Raises:
        OptionError: No folder is named.
        DataError: The model is not there, or cannot be read.
    """
    if models is None:
        raise OptionError(
            f"the study needs the pretrained model {digest[:12]}, and no folder of models is named",
            todo='write models = "FOLDER" into hospital.toml or aggregator.toml, or give --models '
            "FOLDER in a simulation",
        )
    found = {place: digest_of(place) for place in _folders(models)}
    for place, own in found.items():
        if own == digest:
            return place
    there = ", ".join(f"{place.name} ({own[:12]})" for place, own in found.items())
    raise DataError(
        f"the pretrained model {digest[:12]} is not here; there are: {there or 'none'}",
        todo=f"put its folder here, with {', '.join(FILES)}; fedward study pretrained FOLDER "
        "prints a folder's digest",
        where=str(models),
    )


def config_of(folder: Path) -> dict[str, Any]:
    """A model's own settings.

    Raises:
        DataError: They cannot be read.
    """
    path = folder / CONFIG
    if _stamp(path)[0] > _LARGEST_CONFIG:
        raise DataError("is too large", todo="put a model's own config.json here", where=str(path))
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"is no JSON that can be read ({error})", todo="copy the model anew", where=str(path)
        ) from None
    if not isinstance(found, dict):
        raise DataError("is no JSON object", todo="copy the model anew", where=str(path))
    return found


def _folders(models: Path) -> list[Path]:
    """Where all three files are: the folder itself, or what is in it."""
    try:
        places = [models, *sorted(place for place in models.iterdir() if place.is_dir())]
    except OSError as error:
        raise DataError(
            f"the folder of models cannot be read ({error.strerror})",
            todo="check its path",
            where=str(models),
        ) from None
    return [place for place in places if all((place / name).is_file() for name in FILES)]


def _stamp(path: Path) -> tuple[int, int]:
    """Length and time of the last change."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})",
            todo=f"a pretrained model is a folder with {', '.join(FILES)}",
            where=str(path),
        ) from None
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _digest(folder: Path, stamps: tuple[tuple[int, int], ...]) -> str:
    """Read anew only when a file has changed: a model is some hundred megabytes."""
    whole = hashlib.sha256()
    for name, (size, _) in zip(FILES, stamps, strict=True):
        whole.update(f"{name} {size}\n".encode())
        try:
            with (folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror})",
                todo="check its permissions",
                where=str(folder / name),
            ) from None
    return whole.hexdigest()
