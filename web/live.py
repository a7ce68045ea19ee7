"""A page that stays current: its parts are sent anew, as server-sent events, when they change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import Response, StreamingResponse

from fedward.study.errors import FedwardError
from fedward.web.door import said

Sections = Callable[[], Mapping[str, str]]
"""The HTML of each part of a page, by its element's id."""

_LOOK = 1.0  # seconds between two looks
_STEP = 0.1  # seconds until a page that is to end notices
_BEAT = 15.0  # seconds after which a silent stream says that it is there
_MOST = 32  # streams


class Live:
    """The streams of one page."""

    def __init__(self) -> None:
        self._open = 0

    def stream(self, sections: Sections, stopping: Callable[[], bool]) -> Response:
        """Parts of a page whenever they change, until the page ends or the browser leaves.

        Args:
            sections: Called in a thread, again and again.
            stopping: Whether the page ends.
        """
        if self._open >= _MOST:
            return said(503, "Too many look already", "Close a window of this page.")
        return StreamingResponse(
            self._events(sections, stopping), media_type="text/event-stream; charset=utf-8"
        )

    async def _events(
        self, sections: Sections, stopping: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        self._open += 1
        loop = asyncio.get_running_loop()
        told: Mapping[str, str] = {}
        silent = loop.time()
        try:
            while not stopping():
                try:
                    now = await asyncio.to_thread(sections)
                except FedwardError as error:
                    now = {}
                    yield f"event: trouble\ndata: {json.dumps(error.line())}\n\n".encode()
                changed = {key: text for key, text in now.items() if told.get(key) != text}
                told = now
                if changed:
                    yield f"data: {json.dumps(changed)}\n\n".encode()
                    silent = loop.time()
                elif loop.time() - silent > _BEAT:
                    yield b": here\n\n"
                    silent = loop.time()
                last = loop.time() + _LOOK
                while loop.time() < last and not stopping():
                    await asyncio.sleep(_STEP)
        finally:
            self._open -= 1
