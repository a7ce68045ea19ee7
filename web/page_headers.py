"""What every page tells the browser: load nothing from elsewhere, run no code within the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.responses import Response


def page_headers(*, forms: bool = False) -> dict[str, str]:
    """The headers of a page and of all that belongs to it.

    Args:
        forms: Whether it has forms, which go nowhere but to its own service.
    """
    target = "'self'" if forms else "'none'"
    # Without any referrer a browser sends a form of ours with the origin `null`.
    referrer = "same-origin" if forms else "no-referrer"
    return {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
            f"connect-src 'self'; base-uri 'none'; form-action {target}; "
            "frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": referrer,
        "Cache-Control": "no-store",
    }


_KINDS = {".js": "text/javascript", ".css": "text/css"}


def static(path: Path) -> Callable[[], Awaitable[Response]]:
    """An endpoint that gives one script or style sheet, which is read now."""
    content, kind = path.read_bytes(), f"{_KINDS[path.suffix]}; charset=utf-8"

    async def show() -> Response:
        return Response(content, media_type=kind, headers=page_headers())

    return show
