"""Both pages in a real browser, over a real consortium: from the offer of a study to its model."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedward.client.hospital import read_hospital, write_hospital
from fedward.models.registry import settled
from fedward.server.aggregator import PageSettings, read_aggregator, write_aggregator
from fedward.web.served_page import ADDRESS_FILE
from tests.browser import browsing, needs_browser, no_wider_than_the_window, tab_to, window
from tests.deployment.at_work import FEDWARD, AtWork, at_work, three, until
from tests.deployment.test_aggregator import free_port
from tests.pictures import take

pytestmark = [pytest.mark.slow, needs_browser, pytest.mark.filterwarnings("ignore")]
ROUNDS = 8
CAP = 50.0


def prepare(work: AtWork) -> None:
    """The service shows its page, and hospital A has a limit."""
    hub = read_aggregator(work.hub_file)
    page = PageSettings(port=free_port())
    write_aggregator(hub.model_copy(update={"page": page}), work.hub_file)
    for name in work.names:
        file = read_hospital(work.file(name))
        limits = file.limits.model_copy(update={"epsilon": CAP, "delta": 1e-3})
        write_hospital(file.model_copy(update={"limits": limits}), work.file(name))


@contextmanager
def hospital_page(work: AtWork, name: str) -> Iterator[Path]:
    """`fedward hospital page` in a process of its own; gives the file with its address."""
    command = [str(FEDWARD), "hospital", "page", "--hospital", str(work.file(name))]
    with (work.state(name).parent / "page.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        file = work.state(name) / ADDRESS_FILE
        until(file.exists, what="the page's address")
        yield file
    finally:
        process.terminate()
        assert process.wait(30) == 0
        assert not file.exists()
        said = (work.state(name).parent / "page.txt").read_text()
        assert "token=" not in said  # its output may be a log
        assert "Traceback" not in said


def said(page: Any, section: str, words: str) -> None:  # noqa: ANN401
    """Wait until a part of the page says so, without loading the page again."""
    page.locator(f"#{section}", has_text=words).wait_for(timeout=90_000)
    assert no_wider_than_the_window(page)


def test_a_study_goes_from_its_offer_to_a_model(tmp_path: Path, *, renew: bool) -> None:
    study = settled(
        three(
            "tumours",
            private=True,
            study={
                "name": "tumours",
                "title": "Benign or malignant, from age and size",
                "intended_use": "A second opinion beside the pathologist's.",
            },
            training={"rounds": ROUNDS},
        )
    )
    with at_work(study, prepare=prepare) as work, browsing() as browser:
        hub_address = work.hub / "state" / ADDRESS_FILE
        until(hub_address.exists, what="the aggregator's page")
        with (
            hospital_page(work, "A") as address,
            window(browser, hub_address.read_text()) as hub,
            window(browser, address.read_text()) as ward,
        ):
            said(hub, "hospitals", "3 there now")
            said(hub, "live", "No run was submitted yet")
            said(ward, "offered", "None.")
            run = work.submit(study, "run-1")
            said(hub, "round", "not approved yet at A, B, C")
            approve_with_the_keyboard(ward, study.digest(), renew=renew)
            said(hub, "round", "not approved yet at B, C")
            work.deployment.approve(study)
            said(hub, "curves", "AUC")
            said(hub, "round", f"Round 4 of {ROUNDS}")
            said(hub, "which", "Run run-1")
            take(hub, "aggregator.png", renew=renew, height=1150)
            work.finished(run)
            judged_and_downloaded(hub, run.folder)
            spent_and_logged(ward, work)
            withdraw_with_the_keyboard(ward, work, study.digest())
            work.kill("A")
            said(ward, "standing", "No daemon runs")
            said(hub, "hospitals", "last seen")
        work.no_traceback()


def approve_with_the_keyboard(ward: Any, digest: str, *, renew: bool) -> None:  # noqa: ANN401
    ward.locator(f"#approve-{digest[:16]}").wait_for()
    take(ward, "hospital.png", renew=renew, height=1250)
    tab_to(ward, f"read-{digest[:16]}")
    tab_to(ward, f"approve-{digest[:16]}")
    ward.keyboard.press("Enter")  # without the tick nothing is sent
    assert ward.evaluate("document.activeElement.id") == f"read-{digest[:16]}"
    ward.keyboard.press("Space")
    tab_to(ward, f"approve-{digest[:16]}")
    ward.keyboard.press("Enter")
    said(ward, "note", "Approved;")
    said(ward, "approved", "What it asks")
    said(ward, "offered", "None.")


def judged_and_downloaded(hub: Any, folder: Path) -> None:  # noqa: ANN401
    federation = json.loads((folder / "federation.json").read_bytes())
    said(hub, "round", "Finished.")
    said(hub, "round", f"{federation['test']['auc']:.3f}")
    drawn = hub.locator("#curves path.curve").first.get_attribute("d")
    assert drawn.count("L") == ROUNDS
    with hub.expect_download() as download:
        hub.get_by_text("the model", exact=True).click()
    got = Path(download.value.path()).read_bytes()
    assert got == (folder / "model.safetensors").read_bytes()


def spent_and_logged(ward: Any, work: AtWork) -> None:  # noqa: ANN401
    said(ward, "budget", f"of {CAP:g} at delta 0.001 is spent, in {ROUNDS} rounds")
    told = json.loads(work.fedward("hospital", "budget", "export", "--hospital", work.file("A")))
    (whole,) = [row for row in told["totals"] if row["study"] == "all"]
    assert float(ward.locator("#budget meter").get_attribute("value")) == whole["epsilon"]
    said(ward, "budget", f"{whole['epsilon']:.3f} of {CAP:g}")
    said(ward, "audit", f"{len(work.audited('A'))} lines, each signed and in its place")
    said(ward, "machine", "processor cores")


def withdraw_with_the_keyboard(ward: Any, work: AtWork, digest: str) -> None:  # noqa: ANN401
    folder = work.file("A").parent / read_hospital(work.file("A")).studies
    assert len(list(folder.glob("*.toml"))) == 1
    tab_to(ward, f"revoke-{digest[:16]}")
    ward.keyboard.press("Enter")
    said(ward, "note", "No longer approved")
    assert list(folder.glob("*.toml")) == []
