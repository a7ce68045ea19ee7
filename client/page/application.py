"""The hospital's page as an application: what it shows, and the two things that it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from fedward.client import decisions
from fedward.client.page.hospital_view import Looking
from fedward.client.study_words import PROMISE
from fedward.study.errors import FedwardError
from fedward.study.version import VERSION
from fedward.web.live import Live
from fedward.web.templates import Templates, add_shared

_TEMPLATE = "hospital.html"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Note(NamedTuple):
    """What became of a decision.

    Attributes:
        text: A sentence.
        good: Whether it was carried out.
    """

    text: str
    good: bool


def application(hospital_path: Path) -> FastAPI:
    """The page of a hospital.

    Args:
        hospital_path: Its `hospital.toml`.
    """
    app = FastAPI(title="Hospital", version=VERSION, openapi_url=None, redirect_slashes=False)
    templates, live, looking = Templates(Path(__file__).parent), Live(), Looking(hospital_path)
    notes: dict[str, Note] = {}

    def values(csrf: str) -> dict[str, Any]:
        return {"view": looking.look(), "csrf": csrf, "promise": PROMISE}

    @app.get("/")
    def front(request: Request) -> Response:
        csrf = request.state.csrf
        note = notes.pop(csrf, None)
        return HTMLResponse(templates.page(_TEMPLATE, events="/events", note=note, **values(csrf)))

    @app.get("/events")
    async def events(request: Request) -> Response:
        csrf, stopping = request.state.csrf, request.app.state.stopping

        def sections() -> Mapping[str, str]:
            return templates.sections(_TEMPLATE, events="", note=None, **values(csrf))

        return live.stream(sections, stopping)

    def decided(request: Request, decide: Callable[[str], Note]) -> Response:
        digest = request.state.form.get("digest", "")
        # The whole digest: what is approved is what stood above the button.
        note = Note("That is no study's digest.", good=False)
        if _DIGEST.fullmatch(digest):
            try:
                note = decide(digest)
            except FedwardError as error:
                note = Note(error.line(), good=False)
        notes[request.state.csrf] = note
        return RedirectResponse("/", 303)

    @app.post("/approve")
    def approve(request: Request) -> Response:
        def decide(digest: str) -> Note:
            if request.state.form.get("read") != "yes":
                return Note("Not approved: say that you have read what the study asks.", good=False)
            file = decisions.approve(digest, hospital_path)
            return Note(f"Approved; the approval is {file}", good=True)

        return decided(request, decide)

    @app.post("/revoke")
    def revoke(request: Request) -> Response:
        def decide(digest: str) -> Note:
            file = decisions.revoke(digest, hospital_path)
            return Note(
                f"No longer approved, from the next message on; taken away: {file}", good=True
            )

        return decided(request, decide)

    add_shared(app)
    return app
