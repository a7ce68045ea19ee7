"""Pictures of pages in docs/pictures, which browser tests take, and what they were taken of."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browser import WIDE

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
KEPT = FOLDER / "sources.json"
LARGEST = 150_000  # bytes
_COLOURS = 128

_SHARED = ("web/page/*", "web/templates.py")
SOURCES: dict[str, tuple[str, ...]] = {
    "aggregator.png": ("server/page/*", *_SHARED),
    "hospital.png": ("client/page/*", "client/study_words.py", *_SHARED),
    "predict.png": (
        *("clinic/serving/page/*", "clinic/serving/people.py", "clinic/answers.py"),
        "clinic/explanation_picture.py",
    ),
    "report.png": (
        *("clinic/report*.jinja", "clinic/report*.py", "clinic/pictures.py", "clinic/curves.py"),
    ),
}
"""Of each picture: the files that make the page what it looks like."""


def sources_of(name: str) -> list[Path]:
    """The files that a picture's page is made of."""
    found = {path for pattern in SOURCES[name] for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(found)


def digest_of(files: list[Path]) -> str:
    """SHA-256 over names and contents."""
    whole = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        whole.update(f"{path.name} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()


def kept() -> dict[str, dict[str, str]]:
    """Of each picture the digest of its page's sources, and its own, when it was taken."""
    try:
        found: dict[str, dict[str, str]] = json.loads(KEPT.read_bytes())
    except FileNotFoundError:
        return {}
    return found


def take(
    page: Any,  # noqa: ANN401
    name: str,
    *,
    renew: bool,
    height: int = WIDE["height"],
    top: str = "body",
) -> None:
    """Take a picture of a page; it is kept only if pictures are to be taken anew.

    Args:
        page: Of a browser.
        name: Of the picture.
        renew: Whether it takes the place of the one in docs/pictures.
        height: Of the window.
        top: Selects what stands at its top.
    """
    before = page.viewport_size
    page.set_viewport_size({**WIDE, "height": height})
    page.locator(top).first.evaluate("element => element.scrollIntoView()")
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.set_viewport_size(before)
    small = io.BytesIO()
    picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    content = small.getvalue()
    assert len(content) < LARGEST
    assert len(set(picture.convert("L").tobytes())) > 10, "the picture is empty"
    if renew:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / name).write_bytes(content)
        own = digest_of([FOLDER / name])
        found = {**kept(), name: {"sources": digest_of(sources_of(name)), "picture": own}}
        KEPT.write_text(f"{json.dumps(found, indent=2, sort_keys=True)}\n", "utf-8")
