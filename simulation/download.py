"""Finding the data set: as given, or fetched from its publisher once, and checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fedward.study.errors import DataError, OptionError
from fedward.study.simulation import Download
from fedward.study.study import Study

_LARGEST = 1 << 31


def found_data(study: Study, given: Path | None, *, say: Callable[[str], None]) -> Path | None:
    """Where a simulation's data set is; None if it comes with a library, or is missing.

    Args:
        study: May name a data set to download.
        given: What the user gave.
        say: Told what is done, in one line.

    Raises:
        OptionError: What the user gave is not there.
        DataError: The study's data set cannot be had.
    """
    if given is not None:
        if not given.exists():
            raise OptionError("no such file or folder", todo="check --data", where=str(given))
        return given
    source = study.simulation.download
    return None if source is None else fetch(source, say=say)


def fetch(source: Download, *, say: Callable[[str], None], cache: Path | None = None) -> Path:
    """The path of the data set, from the cache or from its publisher.

    Args:
        source: Address and digest.
        say: Told what is done, in one line.
        cache: Folder to keep it in; the user's cache folder if left out.

    Raises:
        DataError: It cannot be reached, or is not what its publisher says.
    """
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fedward"
    path = folder / source.url.rsplit("/", 1)[-1].split("?")[0]
    if path.exists() and _md5(path.read_bytes()) == source.md5:
        return path
    say(f"Downloading {source.url} to {path} ({source.licence})")
    content = _read(source, path)
    if _md5(content) != source.md5:
        raise DataError(
            f"its digest is {_md5(content)}, expected {source.md5}; nothing was kept",
            todo="try again later, or get the file elsewhere and give it with --data",
            where=source.url,
        )
    aside = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})",
            todo="set XDG_CACHE_HOME to a folder that can, or give the file with --data",
            where=str(path),
        ) from None
    return path


def _read(source: Download, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(source.url, timeout=30) as reply:  # noqa: S310 - https only, see Download
            if not reply.geturl().startswith("https://"):
                raise ValueError("it sent us to an address without TLS")
            content: bytes = reply.read(_LARGEST)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(
            f"cannot be reached ({getattr(error, 'reason', error)})",
            todo=f"on a connected machine get it, then pass --data {path.name}",
            where=source.url,
        ) from None
    return content


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
