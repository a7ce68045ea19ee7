"""A page opens to whoever was given its address, and its forms are taken from itself alone."""

from __future__ import annotations

import errno
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from fedward.study.errors import ServiceError
from fedward.web import served_page
from fedward.web.served_page import ADDRESS_FILE, ServedPage
from fedward.web.templates import add_shared
from fedward.web.uvicorn_server import QuietServer


@pytest.fixture
def sent() -> list[dict[str, str]]:
    """Forms that reached the page."""
    return []


@pytest.fixture
def page(tmp_path: Path, sent: list[dict[str, str]]) -> Iterator[ServedPage]:
    app = FastAPI()
    add_shared(app)

    @app.get("/")
    async def front(request: Request) -> HTMLResponse:
        return HTMLResponse(f"csrf={request.state.csrf}")

    @app.post("/do")
    async def do(request: Request) -> HTMLResponse:
        sent.append(request.state.form)
        return HTMLResponse("done")

    with ServedPage(app, tmp_path, port=0, name="test") as served:
        yield served


@pytest.fixture
def web(page: ServedPage) -> Iterator[httpx.Client]:
    """A browser that nobody gave the address."""
    with httpx.Client(base_url=f"http://127.0.0.1:{page.port}", trust_env=False) as client:
        yield client


def opened(web: httpx.Client, page: ServedPage) -> str:
    """Open the page as a person does; gives what its forms bring."""
    answer = web.get(page.address)
    assert answer.status_code == 200
    found = re.fullmatch(r"csrf=(.+)", web.get("/").text)
    assert found is not None
    return found[1]


def test_without_the_address_nothing_opens(web: httpx.Client, page: ServedPage) -> None:
    for given in ("/", "/?token=", "/?token=%ff", f"{page.address}x", "/do", "/openapi.json"):
        answer = web.get(given)
        assert answer.status_code == 401, given
        assert "set-cookie" not in answer.headers
    assert web.get("/page.css").status_code == 200


def test_a_cookie_that_was_not_given_or_is_too_old_opens_nothing(
    web: httpx.Client, page: ServedPage
) -> None:
    first = web.get(page.address).headers["set-cookie"].partition(";")[0]
    name, _, value = first.partition("=")
    web.cookies.clear()

    def asked(cookie: str) -> int:
        return web.get("/", headers={"Cookie": f"{name}={cookie}"}).status_code

    assert asked(value) == 200
    for wrong in ("", "x", value[:-1], value + "x", value.swapcase()):
        assert asked(wrong) == 401, wrong
    for _ in range(32):  # as many sessions as there may be
        web.get(page.address)
        web.cookies.clear()
    assert asked(value) == 401


def test_the_address_opens_once_and_the_next_one_is_another(
    web: httpx.Client, page: ServedPage
) -> None:
    first = page.address
    answer = web.get(first)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert "token" not in answer.text
    assert web.get("/").status_code == 200
    web.cookies.clear()
    assert web.get(first).status_code == 401
    assert page.address != first
    assert web.get(page.address).status_code == 200


def test_an_address_that_cannot_be_renewed_is_not_used_up(
    web: httpx.Client, page: ServedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(served_page, "write_secret", full)
        answer = web.get(page.address)
        assert answer.status_code == 503
        assert "the disk is full" in answer.text
        assert "set-cookie" not in answer.headers
    assert web.get(page.address).status_code == 200


def test_a_look_ahead_does_not_use_the_address_up(web: httpx.Client, page: ServedPage) -> None:
    assert web.head(page.address).status_code == 401
    assert web.get(page.address).status_code == 200


def test_the_address_is_its_owner_s_and_goes_with_the_page(page: ServedPage) -> None:
    assert stat.S_IMODE(page.address_file.stat().st_mode) == 0o600
    assert page.address_file.name == ADDRESS_FILE
    page.__exit__(None, None, None)
    assert not page.address_file.exists()


def test_a_page_leaves_the_address_of_another_one(page: ServedPage, tmp_path: Path) -> None:
    with ServedPage(FastAPI(), tmp_path, port=0, name="test") as other:
        page.__exit__(None, None, None)
        assert f":{other.port}/" in other.address
    assert not other.address_file.exists()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"])
def test_another_name_is_not_this_machine(web: httpx.Client, page: ServedPage, host: str) -> None:
    """DNS rebinding: somebody else's page whose name leads here."""
    opened(web, page)
    assert web.get("/", headers={"Host": host}).status_code == 421
    assert web.get(page.address, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST:9"])
def test_a_tunnel_s_end_is_this_machine(web: httpx.Client, page: ServedPage, host: str) -> None:
    opened(web, page)
    assert web.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_site_s_form_is_not_taken(
    web: httpx.Client, page: ServedPage, sent: list[dict[str, str]], headers: dict[str, str]
) -> None:
    csrf = opened(web, page)
    answer = web.post("/do", data={"csrf": csrf, "digest": "1"}, headers=headers)
    assert answer.status_code == 403
    assert sent == []


def test_a_form_brings_the_secret_of_its_own_session(
    web: httpx.Client, page: ServedPage, sent: list[dict[str, str]]
) -> None:
    csrf = opened(web, page)
    with httpx.Client(base_url=web.base_url, trust_env=False) as other:
        foreign = opened(other, page)
    assert foreign != csrf
    for wrong in ({}, {"csrf": ""}, {"csrf": foreign}, {"csrf": csrf + "x"}):
        assert web.post("/do", data={"digest": "1", **wrong}).status_code == 403
    assert sent == []
    assert web.post("/do", data={"digest": "1", "csrf": csrf}).text == "done"
    assert sent == [{"digest": "1"}]


def test_a_form_without_a_cookie_is_not_taken(
    web: httpx.Client, page: ServedPage, sent: list[dict[str, str]]
) -> None:
    csrf = opened(web, page)
    web.cookies.clear()
    assert web.post("/do", data={"csrf": csrf}).status_code == 401
    assert sent == []


def test_forms_are_small_and_of_one_kind(
    web: httpx.Client, page: ServedPage, sent: list[dict[str, str]]
) -> None:
    csrf = opened(web, page)
    assert web.post("/do", data={"csrf": csrf, "x": "a" * 20_000}).status_code == 413
    assert web.post("/do", json={"csrf": csrf}).status_code == 415
    many = {"csrf": csrf, **{f"f{number}": "1" for number in range(30)}}
    assert web.post("/do", data=many).status_code == 400
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert web.post("/do", content=b"csrf=\xff", headers=kind).status_code == 400
    assert web.request("PUT", "/do").status_code == 405
    assert sent == []


def test_every_answer_forbids_what_is_not_its_own(web: httpx.Client, page: ServedPage) -> None:
    for answer in (web.get("/"), web.get(page.address), web.get("/"), web.get("/page.css")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_a_page_listens_on_this_machine_alone(page: ServedPage) -> None:
    assert page._socket.getsockname()[0] == "127.0.0.1"


def test_a_page_that_does_not_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuietServer, "run", lambda *_, **__: None)
    page = ServedPage(FastAPI(), tmp_path, port=0, name="test")
    with pytest.raises(ServiceError, match="did not start"):
        page.__enter__()
    assert not page.address_file.exists()
    socket.create_server(("127.0.0.1", page.port)).close()


def test_a_taken_port_is_said(page: ServedPage, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot listen on port"):
        ServedPage(FastAPI(), tmp_path, port=page.port, name="test")
