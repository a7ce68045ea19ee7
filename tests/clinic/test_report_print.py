"""The report as a printer without colour gives it: whoever reads it still tells the lines apart."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedward.clinic import pictures
from fedward.clinic.curves import Curve, Group
from fedward.clinic.pictures import Line, uri_of
from fedward.clinic.report import write_report
from fedward.clinic.report_pictures import _MOST_LINES
from tests.browser import browsing, needs_browser, no_wider_than_the_window
from tests.clinic.test_report import run_of
from tests.pictures import take

pytestmark = [pytest.mark.slow, needs_browser, pytest.mark.filterwarnings("ignore")]
A4 = 680  # CSS pixels between margins of 15 mm
SMALLEST = 8.0  # CSS pixels, 6 points
INK = 200  # brighter is paper
APART = 0.5  # pixels of ink a column, at three pixels a CSS pixel
SVG = re.compile(r'src="data:image/svg\+xml;base64,([^"]+)"')
Numbers = NDArray[np.float64]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a simulation with models to compare with."""
    run = run_of(
        tmp_path_factory.mktemp("print"),
        baselines=True,
        study={
            "name": "tumours",
            "title": "Benign or malignant, from age and size",
            "intended_use": "A second opinion beside the pathologist's.",
            "limits": ["Not for children."],
        },
        training={"rounds": 8},
    )
    return write_report(run, run).report


def swatches(browser: Any, svg: str) -> dict[str, list[Numbers]]:  # noqa: ANN401
    """Of each legend: what stands before its words, as ink a column, printed without colour."""
    page = browser.new_page(viewport={"width": 900, "height": 900}, device_scale_factor=3)
    page.emulate_media(media="print")
    page.set_content(f'<body style="margin:0;filter:grayscale(1)">{svg}</body>')
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("g[id^=legend] > g[id^=line2d]")].map((g) => {
          const {x, y, width, height} = g.getBoundingClientRect();
          return [g.parentNode.id + g.closest("g[id^=axes]").id, x + width / 2, y + height / 2];
        })"""
    )
    found: dict[str, list[Numbers]] = {}
    for legend, x, y in boxes:
        clip = {"x": x - 16, "y": y - 7, "width": 32, "height": 14}
        grey = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("L"))
        found.setdefault(legend, []).append((grey < INK).sum(axis=0).astype(np.float64))
    page.close()
    return found


def alike(browser: Any, svg: str) -> list[float]:  # noqa: ANN401
    """How far apart each two entries of a legend are, as `APART` counts it."""
    return [
        float(np.abs(a - b).mean())
        for entries in swatches(browser, svg).values()
        for a, b in combinations(entries, 2)
    ]


def svg_of(uri: str) -> str:
    return base64.b64decode(uri.partition("base64,")[2]).decode()


def lines(count: int) -> list[Line]:
    x = np.linspace(0, 1, 60)
    return [Line(f"class {n}", Curve(x, x ** (1 + n / 3))) for n in range(count)]


def drawn(kind: str) -> str:
    some = lines(_MOST_LINES)
    match kind:
        case "roc":
            figure = pictures.roc(some, [(0.2, 0.6)], "the run's threshold")
        case "precision and recall":
            figure = pictures.precision_recall(some, [(0.2, 0.6)], "the run's threshold", 0.3)
        case "calibration":
            figure = pictures.reliability(some)
        case "learning":
            figure = pictures.learning_curves(some[:2], some[:1])
        case _:
            groups = [Group(line.name, 9.0, line.curve) for line in some[:3]]
            figure = pictures.survival(groups)
    return svg_of(uri_of(figure))


KINDS = ["roc", "precision and recall", "calibration", "learning", "survival"]


@pytest.mark.parametrize("kind", KINDS)
def test_lines_are_told_apart_without_colour(browser: Any, kind: str) -> None:  # noqa: ANN401
    distances = alike(browser, drawn(kind))
    assert distances
    assert min(distances) > APART


def test_lines_that_differ_by_colour_alone_are_noticed(
    browser: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "DASHES", ("-",))
    monkeypatch.setattr(pictures, "MARKS", ("",))
    for kind in ("roc", "survival"):
        assert min(alike(browser, drawn(kind))) < APART


def test_a_printed_report_is_legible(browser: Any, report: Path, *, renew: bool) -> None:  # noqa: ANN401
    text = report.read_text("utf-8")
    page = browser.new_page(viewport={"width": A4, "height": 1000})
    page.goto(report.as_uri())
    assert no_wider_than_the_window(page)
    take(page, "report.png", renew=renew, height=1350, top="#models")
    page.emulate_media(media="print", color_scheme="light")
    assert no_wider_than_the_window(page)
    shown = page.locator("img")
    svgs = [base64.b64decode(found).decode() for found in SVG.findall(text)]
    assert shown.count() == len(svgs) > 4
    for number, svg in enumerate(svgs):
        assert min(alike(browser, svg), default=1.0) > APART
        picture = shown.nth(number)
        grey = Image.open(io.BytesIO(picture.screenshot())).convert("L")
        levels = np.asarray(grey)
        assert levels.min() < 100, "nothing dark is printed"
        assert levels.max() > 250, "the paper is not white"
        size = picture.evaluate("i => i.getBoundingClientRect().width / i.naturalWidth")
        letters = [float(found) for found in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert letters
        assert min(letters) * size * 4 / 3 >= SMALLEST  # the SVG counts in points
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
    page.close()
