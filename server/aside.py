"""Writing a file whole or not at all, without the libraries that a result needs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_aside(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: nobody ever sees half of it, also after a power cut."""
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(document: dict[str, Any], path: Path) -> None:
    """A JSON document, whole or not at all."""
    write_aside(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")
