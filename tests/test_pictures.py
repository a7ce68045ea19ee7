"""The pictures in docs/pictures are of the pages as they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import FOLDER, KEPT, LARGEST, ROOT, SOURCES, digest_of, kept, sources_of

ANEW = "a page has changed since its picture was taken: make pictures"


@pytest.mark.parametrize("name", SOURCES)
def test_a_picture_is_current(name: str) -> None:
    assert kept().get(name, {}).get("sources") == digest_of(sources_of(name)), ANEW


@pytest.mark.parametrize("name", SOURCES)
def test_a_picture_is_the_one_that_was_taken(name: str) -> None:
    picture = FOLDER / name
    assert kept().get(name, {}).get("picture") == digest_of([picture]), ANEW
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < LARGEST


def test_every_picture_is_shown_and_made_of_something() -> None:
    shown = "".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    for name in SOURCES:
        assert f"pictures/{name}" in shown
        assert len(sources_of(name)) > 1
    assert {path.name for path in FOLDER.iterdir()} == {*SOURCES, KEPT.name}


def test_a_changed_or_renamed_source_is_noticed(tmp_path: Path) -> None:
    files = [tmp_path / "page.html", tmp_path / "page.css"]
    for path in files:
        path.write_text("a")
    before = digest_of(files)
    assert digest_of(files) == before
    files[1].write_text("b")
    assert digest_of(files) != before
    files[1].write_text("a")
    assert digest_of([files[0], files[1].rename(tmp_path / "other.css")]) != before
