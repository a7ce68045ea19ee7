"""Fetching a data set: once, the right one, and never half of it."""

from __future__ import annotations

import hashlib
import http.client
import io
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from urllib.response import addinfourl

import pytest

from fedward.simulation.download import fetch
from fedward.study.errors import DataError
from fedward.study.simulation import Download

CONTENT = b"age,diagnosis\n1,benign\n"
URL = "https://data.example/files/records.csv?download=1"
UNREACHABLE = "https://127.0.0.1:9/records.csv"


def source(url: str = URL, content: bytes = CONTENT) -> Download:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Download(url=url, md5=digest, licence="CC BY 4.0")


class Publisher(urllib.request.HTTPSHandler):
    """Answers https requests in the place of the internet."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        super().__init__()
        self._answer = answer
        self.asked: list[str] = []

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        self.asked.append(req.full_url)
        reply = addinfourl(io.BytesIO(self._answer()), Message(), req.full_url, 200)
        vars(reply)["msg"] = "OK"
        return reply  # type: ignore[return-value]


@pytest.fixture
def publish() -> Iterator[Callable[[Callable[[], bytes]], Publisher]]:
    def install(answer: Callable[[], bytes]) -> Publisher:
        publisher = Publisher(answer)
        urllib.request.install_opener(
            urllib.request.build_opener(urllib.request.ProxyHandler({}), publisher)
        )
        return publisher

    yield install
    urllib.request.install_opener(None)


Publish = Callable[[Callable[[], bytes]], Publisher]


def test_a_data_set_is_fetched_once_and_kept(publish: Publish, tmp_path: Path) -> None:
    publisher = publish(lambda: CONTENT)
    said: list[str] = []
    first = fetch(source(), say=said.append, cache=tmp_path / "cache")
    second = fetch(source(), say=said.append, cache=tmp_path / "cache")

    assert first == second == tmp_path / "cache" / "records.csv"
    assert first.read_bytes() == CONTENT
    assert publisher.asked == [URL]
    (line,) = said
    assert URL in line
    assert "CC BY 4.0" in line
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["records.csv"]


def test_a_wrong_digest_is_refused_and_nothing_is_kept(publish: Publish, tmp_path: Path) -> None:
    publish(lambda: CONTENT + b"2,malignant\n")

    with pytest.raises(DataError, match="nothing was kept") as caught:
        fetch(source(), say=lambda _: None, cache=tmp_path / "cache")

    assert source().md5 in caught.value.line()
    assert "--data" in caught.value.line()
    assert list(tmp_path.rglob("*.*")) == []


def test_a_kept_file_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_bytes(CONTENT)
    said: list[str] = []

    assert fetch(source(UNREACHABLE), say=said.append, cache=tmp_path).read_bytes() == CONTENT
    assert said == []


def test_a_kept_file_that_was_changed_is_fetched_again(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_bytes(b"changed")
    publish(lambda: CONTENT)

    assert fetch(source(), say=lambda _: None, cache=tmp_path).read_bytes() == CONTENT


def test_without_a_network_the_error_names_the_option_that_needs_none(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(source(UNREACHABLE), say=lambda _: None, cache=tmp_path / "cache")

    line = caught.value.line()
    assert UNREACHABLE in line
    assert "--data records.csv" in line
    assert not (tmp_path / "cache").exists()


def test_the_users_cache_folder_is_the_default(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    publish(lambda: CONTENT)

    assert fetch(source(), say=lambda _: None) == tmp_path / "fedward" / "records.csv"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b"half"),
        http.client.BadStatusLine("?"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_breaks_is_a_data_error(
    publish: Publish, tmp_path: Path, error: Exception
) -> None:
    def breaks() -> bytes:
        raise error

    publish(breaks)

    with pytest.raises(DataError, match=r"--data records\.csv"):
        fetch(source(), say=lambda _: None, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(publish: Publish, tmp_path: Path) -> None:
    publish(lambda: CONTENT)
    (tmp_path / "cache").write_text("a file", encoding="utf-8")

    with pytest.raises(DataError) as caught:
        fetch(source(), say=lambda _: None, cache=tmp_path / "cache")

    assert str(tmp_path / "cache") in caught.value.line()
