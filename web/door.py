"""Who may open a page on this machine: whoever was given its address.

The address that the command prints holds a token that opens the page once. The browser that used
it has a cookie from then on, and the next token is another one. Every form has to bring the secret
that only a page of the same session shows.
"""

from __future__ import annotations

import hmac
import html
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedward.web.page_headers import page_headers
from fedward.web.same_site import LOOPBACK, is_other_name, is_other_site

OPEN = frozenset({"/page.css", "/live.js"})
"""Paths that need no cookie: nothing of anybody is in them."""

CSRF = "csrf"
"""Name of the field of a form that shows where the form comes from."""

_SESSIONS = 32
_LARGEST = 1 << 14  # bytes of a form
_BYTES = 32  # of every secret


class Session(NamedTuple):
    """A browser that opened the page.

    Attributes:
        key: Its cookie.
        csrf: What its forms bring.
    """

    key: str
    csrf: str


class Door:
    """The outermost part of a page's application. Endpoints find `csrf` and `form` in their state.

    Args:
        app: What is behind it.
        cookie: Its name; pages on one machine share a jar, whatever their ports.
        changed: Is told the token that opens the page next.
    """

    def __init__(self, app: ASGIApp, *, cookie: str, changed: Callable[[str], None]) -> None:
        self._app, self._cookie, self._changed = app, cookie, changed
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._token = ""
        self._renew()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        if answer is not None:
            await answer(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """What is said instead of the page; None if the page may answer."""
        request = Request(scope, receive)
        headers = dict(scope["headers"])
        if is_other_name(headers, LOOPBACK):
            return said(421, "This page is for this machine alone", "It has another name here.")
        if is_other_site(headers) or not _of_the_page(request):
            return said(403, "A page of another site asks", "Open the page by its own address.")
        if request.method not in {"GET", "HEAD", "POST"}:
            return said(405, "Not so", "This page is read, and its forms are sent.")
        if scope["path"] in OPEN:
            return None
        given = request.query_params.get("token")
        if given is not None and request.method == "GET" and scope["path"] == "/":
            return self._opened(given)
        session = self._session(request)
        if session is None:
            return said(
                401,
                "This page is opened by its own address",
                "The command that started the page says where its address is; each opens it once.",
            )
        state = scope.setdefault("state", {})
        state[CSRF] = session.csrf
        return None if request.method != "POST" else await self._checked_form(request, session)

    def _opened(self, given: str) -> Response:
        if not _same(self._token, given):
            return said(
                401,
                "This address was used",
                "Each opens the page once. The command that started the page says where the next "
                "one is.",
            )
        session = Session(secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES))
        try:
            self._renew()
        except OSError as error:
            why = f"The next address cannot be written ({error.strerror}). This one still opens."
            return said(503, "The page cannot be opened now", why)
        self._sessions[session.key] = session
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        # A page of our own leads on: after a redirect from elsewhere a strict cookie is not sent.
        answer = said(200, "Opening the page", "", head='<meta http-equiv="refresh" content="0;/">')
        answer.set_cookie(self._cookie, session.key, httponly=True, samesite="strict", path="/")
        return answer

    def _session(self, request: Request) -> Session | None:
        given = request.cookies.get(self._cookie, "")
        found = None
        for session in self._sessions.values():
            if _same(session.key, given):
                found = session
        return found

    async def _checked_form(self, request: Request, session: Session) -> Response | None:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return said(415, "Not such a form", "The page's own forms are taken.")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LARGEST:
                return said(413, "Too large", "The page's own forms are taken.")
        try:
            fields = dict(
                parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
            )
        except ValueError:
            return said(400, "No form", "The page's own forms are taken.")
        if not _same(session.csrf, fields.pop(CSRF, "")):
            return said(403, "This form is old, or of another page", "Load the page again.")
        request.scope["state"]["form"] = fields
        return None

    def _renew(self) -> None:
        token = secrets.token_urlsafe(_BYTES)
        self._changed(token)  # if that fails, what was told before still opens
        self._token = token


def said(status: int, title: str, text: str, *, head: str = "") -> HTMLResponse:
    """A small page of a sentence or two; `head` is markup of ours."""
    title, text = html.escape(title), html.escape(text)
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{head}<title>{title}</title><link rel="stylesheet" href="/page.css"></head>'
        f'<body><main><h1>{title}</h1><p>{text}</p><p><a href="/">To the page</a></p></main></body>'
        "</html>",
        status,
    )


def _of_the_page(request: Request) -> bool:
    """Whether a browser that says where a form comes from says that it is ours."""
    ours = "same-origin"
    return request.method != "POST" or request.headers.get("sec-fetch-site", ours) == ours


def _with_headers(send: Send) -> Send:
    wanted = page_headers(forms=True)

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in wanted.items():
                headers[name] = value
        await send(message)

    return sending


def _same(ours: str, given: str) -> bool:
    return hmac.compare_digest(ours.encode(), given.encode("utf-8", "surrogateescape"))
