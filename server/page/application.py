"""The aggregator's page as an application: it reads files, and changes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from fedward.server.aggregator import Aggregator
from fedward.server.page.overview import overview_of, runs_of
from fedward.server.page.run_view import DOWNLOADS, view_of
from fedward.study.errors import FedwardError
from fedward.study.version import VERSION
from fedward.web.door import said
from fedward.web.live import Live
from fedward.web.templates import Templates, add_shared

_TEMPLATE = "aggregator.html"


def application(aggregator: Aggregator) -> FastAPI:
    """The page of an aggregator.

    Args:
        aggregator: Whose files are shown.
    """
    app = FastAPI(title="Aggregator", version=VERSION, openapi_url=None, redirect_slashes=False)
    templates, live = Templates(Path(__file__).parent), Live()

    def values(wanted: str) -> dict[str, Any]:
        overview = overview_of(aggregator)
        trouble, view = list(overview.trouble), None
        name = wanted or overview.foremost
        if name:
            try:
                view = view_of(runs_of(aggregator).get(name), overview.online)
            except FedwardError as error:
                trouble.append(error.line())
        return {"hub": overview, "view": view, "trouble": trouble}

    def shown(wanted: str) -> Response:
        events = f"/events/{wanted}" if wanted else "/events"
        return HTMLResponse(templates.page(_TEMPLATE, events=events, **values(wanted)))

    def stream(request: Request, wanted: str) -> Response:
        def sections() -> Mapping[str, str]:
            return templates.sections(_TEMPLATE, events="", **values(wanted))

        stopping: Callable[[], bool] = request.app.state.stopping
        return live.stream(sections, stopping)

    @app.get("/")
    def front() -> Response:
        return shown("")

    @app.get("/runs/{name}")
    def one_run(name: str) -> Response:
        try:
            runs_of(aggregator).get(name)
        except FedwardError as error:
            return said(404, "No such run", error.line())
        return shown(name)

    @app.get("/events")
    async def events(request: Request) -> Response:
        return stream(request, "")

    @app.get("/events/{name}")
    async def events_of(request: Request, name: str) -> Response:
        return stream(request, name)

    @app.get("/runs/{name}/{file}")
    def download(name: str, file: str) -> Response:
        try:
            path = runs_of(aggregator).get(name).folder / file
        except FedwardError as error:
            return said(404, "No such run", error.line())
        if file not in DOWNLOADS or not path.is_file():
            return said(404, "No such file", "The run has none of this name.")
        return FileResponse(path, filename=f"{name}-{file}", media_type="application/octet-stream")

    add_shared(app)
    return app
