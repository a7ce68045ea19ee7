"""Who may ask, how often, and from where."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from fedward.clinic.serving import service
from fedward.clinic.serving.answering import Answering, Pace
from fedward.clinic.serving.door import Door, Flying, Limits, Pass, read_token
from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.people import for_people
from fedward.clinic.serving.reading import Reading
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.rest import application
from fedward.clinic.serving.served_model import ServedModel
from fedward.clinic.serving.service import Certificates, Listening
from fedward.study.errors import OptionError
from tests.clinic.serving.small_models import row_model

TOKEN = "t" * 32
PAIR = Certificates(Path("c.pem"), Path("k.pem"))


def token_file(folder: Path, text: str = TOKEN, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_token_is_its_owners_alone_and_long(tmp_path: Path) -> None:
    assert read_token(token_file(tmp_path, f"{TOKEN}\n")) == TOKEN
    for mode in (0o640, 0o604):
        with pytest.raises(OptionError, match="others can read"):
            read_token(token_file(tmp_path, mode=mode))
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o604  # not mended in silence
    for text in ("short", f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", "ü" * 40, ""):
        with pytest.raises(OptionError, match="token"):
            read_token(token_file(tmp_path, text))
    with pytest.raises(OptionError, match="FileNotFoundError"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    "sent", [b"", b"Bearer", TOKEN.encode(), f"Bearer {TOKEN}x".encode(), b"\xff"]
)
def test_another_token_is_refused(sent: bytes) -> None:
    known = Pass(TOKEN, 10)
    known.check_token(f"Bearer {TOKEN}".encode())
    with pytest.raises(Refusal) as refused:
        known.check_token(sent)
    assert refused.value.status == 401
    assert TOKEN not in refused.value.sentence()


def test_the_rate_is_each_addresss_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    known = Pass(None, 2)
    known.check_token(b"")
    for peer in ("a", "a", "b"):
        known.check_rate(peer)
    with pytest.raises(Refusal, match="too many"):
        known.check_rate("a")
    known.check_rate("b")
    now[0] = 0.6
    known.check_rate("a")
    with pytest.raises(Refusal):
        known.check_rate("a")


def test_a_rate_below_one_a_second_lets_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    known = Pass(None, 0.5)
    known.check_rate("a")
    now[0] = 1.0
    with pytest.raises(Refusal):
        known.check_rate("a")
    now[0] = 2.1  # who was refused lost nothing by asking
    known.check_rate("a")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "clinic.example"])  # noqa: S104
def test_nobody_unknown_asks_from_elsewhere(host: str, tmp_path: Path) -> None:
    for certificates in (None, PAIR):
        with pytest.raises(OptionError, match="without a token"):
            Listening(host=host, certificates=certificates).token()
    assert Listening(host=host, token_file=token_file(tmp_path)).token() == TOKEN
    assert Listening(host=host, certificates=PAIR._replace(client_ca=Path("ca"))).token() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.1"])
def test_this_machine_may_ask(host: str) -> None:
    assert Listening(host=host).token() is None


def test_others_may_not_read_a_certificates_key(tmp_path: Path) -> None:
    key = token_file(tmp_path, mode=0o644)
    with pytest.raises(OptionError, match="others can read"):
        service._http_config(door(), Listening(certificates=Certificates(key, key)))


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)


def door(most: int = 1 << 20, seconds: float = 60) -> Door:
    limits = Limits(size=1 << 20, seconds=seconds)
    return Door(reads_all, Pass(None, 1000), limits, Gauges(), Flying(most))


def statuses(asked: Door, bodies: Sequence[AsyncIterator[bytes]]) -> list[int]:
    """What requests at one time get."""

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(asked)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
            return [
                answer.status_code
                for answer in await asyncio.gather(*(web.post("/x", content=b) for b in bodies))
            ]

    return asyncio.run(ask())


async def pieces(*pieces: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(pause)


def test_all_bodies_together_are_bounded() -> None:
    asked = door(most=1000)
    slow = [pieces(bytes(400), b"", pause=0.2) for _ in range(3)]
    assert sorted(statuses(asked, slow)) == [200, 200, 429]
    assert statuses(asked, [pieces(bytes(1000))]) == [200]  # nothing is counted for ever
    assert statuses(asked, [pieces(bytes(600), bytes(600))]) == [429]
    assert statuses(asked, [pieces(bytes(1000))]) == [200]


def test_a_form_that_comes_too_slowly(tmp_path: Path) -> None:
    model = ServedModel(row_model(tmp_path / "rows.onnx"))
    gauges = Gauges()

    async def ask() -> httpx.Response:
        answering = Answering({"rows": model}, gauges, Pace())
        app = application(answering, lambda: True)
        app.include_router(for_people(answering, Reading([model])))
        asked = Door(app, Pass(None, 1000), Limits(seconds=0.2), gauges, Flying(1 << 20))
        transport = httpx.ASGITransport(asked)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            form = pieces(b"--x\r\nContent", b"-Disposition", pause=0.5)
            answer = await web.post("/predict", content=form, headers=kind)
        await answering.close()
        return answer

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers["cache-control"]) == (408, "no-store")
    assert "too slowly" in answer.json()["error"]


@pytest.mark.parametrize("ready", [True, False])
def test_readiness_is_all_that_the_service_does(ready: bool) -> None:
    async def ask() -> int:
        app = application(Answering({}, Gauges(), Pace()), lambda: ready)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
            return (await web.get("/v2/health/ready")).status_code

    assert asyncio.run(ask()) == (200 if ready else 503)
