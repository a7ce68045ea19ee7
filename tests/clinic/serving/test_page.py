"""The page in a real browser: by keyboard, at 400 pixels, and with markup in a name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import browsing, needs_browser, no_wider_than_the_window, window
from tests.clinic.serving.conftest import Service, serving
from tests.clinic.serving.small_models import ROWS, linear_model
from tests.pictures import take

pytestmark = [pytest.mark.slow, needs_browser, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def page(service: Service) -> Iterator[Any]:
    with browsing() as browser, window(browser, service.url, allowed="status of 400") as found:
        yield found


def test_a_file_is_asked_about_with_the_keyboard_alone(page: Any, tmp_path: Path) -> None:  # noqa: ANN401
    rows = tmp_path / f"<img src=x onerror=alert(1)>{'long-' * 20}.csv"
    rows.write_text("age,sex\n65,m\n40,f\n", encoding="utf-8")
    assert page.title() == "Ask a model"
    assert no_wider_than_the_window(page)
    focused: list[str] = []
    for _ in range(5):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
        if focused[-1] == "model":
            page.keyboard.type("A small <b>study</b> (rows)")
        if focused[-1] == "files":  # the system's own dialog is no part of the page
            page.set_input_files("#files", str(rows))
    assert focused == ["model", "files", "explain", "token", "submit"]
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer img", timeout=60_000)
    assert page.evaluate("document.activeElement.id") == "answer"
    assert page.locator("#answer caption").first.inner_text() == f"{rows.name}, record 1"
    assert page.locator("#answer h2").inner_text() == "A small <b>study</b>"
    assert page.locator("tr.called").all_inner_texts() == [
        "ill (called)\t0.881\t",
        "healthy (called)\t0.953\t",
    ]
    picture = page.locator("#answer img")
    assert picture.evaluate("picture => picture.naturalWidth") > 300
    assert "covered" in picture.get_attribute("alt")
    assert no_wider_than_the_window(page)


def test_what_is_wrong_is_said(page: Any, tmp_path: Path) -> None:  # noqa: ANN401
    (tmp_path / "rows.csv").write_text("nothing", encoding="utf-8")
    page.select_option("#model", "rows")
    page.set_input_files("#files", str(tmp_path / "rows.csv"))
    page.click("button")
    page.wait_for_selector("#state.error", timeout=60_000)
    assert page.inner_text("#state").startswith("Rows.csv") or "rows.csv" in page.inner_text(
        "#state"
    )
    assert page.is_hidden("#answer")


def test_its_picture(tmp_path: Path, *, renew: bool) -> None:
    tables = {**ROWS.study.model_dump(), "title": "Benign or malignant, from age and sex"}
    study = ROWS.model_copy(update={"study": type(ROWS.study)(**tables)})
    matrix = np.array([[0.2, 1.1], [0.3, 0], [0, 0.4]], np.float32)
    model = linear_model(study, tmp_path / "tumours.onnx", matrix)
    rows = tmp_path / "patients.csv"
    rows.write_text("age,sex\n65,m\n40,f\n", encoding="utf-8")
    with (
        serving([model], tmp_path / "log") as service,
        browsing() as browser,
        window(browser, service.url) as page,
    ):
        page.set_input_files("#files", str(rows))
        page.click("button")
        page.wait_for_selector("#answer img", timeout=60_000)
        assert page.locator("#answer table").count() == 2
        take(page, "predict.png", renew=renew, height=1350)
