"""Templates of pages: whatever stands in them is text, and none that moves or turns a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI, Request
from fastapi.responses import Response
from markupsafe import Markup

from fedward.study.errors import FedwardError, printable
from fedward.study.version import VERSION
from fedward.web.door import said
from fedward.web.page_headers import static

PAGE = Path(__file__).parent / "page"


class Templates:
    """The templates of one page, and those that all pages share.

    Args:
        folder: Of its own ones. `sections.html` defines a block for each part that stays current.
    """

    def __init__(self, folder: Path) -> None:
        self._made = jinja2.Environment(
            loader=jinja2.FileSystemLoader([folder, PAGE]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_plain,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._made.globals["version"] = VERSION

    def page(self, name: str, **values: Any) -> str:  # noqa: ANN401 - of the template
        """A whole page."""
        return self._made.get_template(name).render(values)

    def sections(self, name: str, **values: Any) -> Mapping[str, str]:  # noqa: ANN401
        """The same page's parts, by their elements' ids: each block whose name begins `live_`."""
        template = self._made.get_template(name)
        context = template.new_context(values)
        return {
            block.removeprefix("live_").replace("_", "-"): "".join(made(context))
            for block, made in template.blocks.items()
            if block.startswith("live_")
        }


def add_shared(app: FastAPI) -> None:
    """The style sheet and the script of all pages, and an error in words."""
    app.add_exception_handler(FedwardError, _tell)
    for name in ("page.css", "live.js"):
        app.add_api_route(f"/{name}", static(PAGE / name))


async def _tell(_request: Request, error: Exception) -> Response:
    return said(500, "This cannot be shown", str(error))


def _plain(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value
