"""`examples/clinic.sh` as a clinic's data scientist runs it: from training to an alarm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "pneumoniamnist" / "pneumoniamnist.npz"


class _Metrics(BaseHTTPRequestHandler):
    """Answers with the next of the server's texts, with the last for ever; with 500 for None."""

    def do_GET(self) -> None:
        texts = self.server.texts  # type: ignore[attr-defined]
        text = texts.pop(0) if len(texts) > 1 else texts[0]
        self.send_response(500 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def gauges(records: int, alarm: int) -> str:
    labels = '{feature="mean",kind="number",model="chest"}'
    return f"fedward_watch_records{labels} {records}.0\nfedward_watch_alarm{labels} {alarm}.0\n"


@pytest.mark.parametrize(
    ("texts", "code", "said"),
    [
        ([gauges(200, 1)], 0, 'feature="mean"'),
        (["", *(gauges(n, 0) for n in range(10, 200, 10)), gauges(200, 1)], 0, 'feature="mean"'),
        (["", gauges(200, 0)], 3, "no alarm"),
        ([""], 1, "has compared no records"),
        ([gauges(0, 0)], 1, "has compared no records"),
        ([gauges(200, 0), None], 1, "500"),
    ],
    ids=["alarm", "an alarm later", "no alarm", "not watched", "no records", "broken"],
)
def test_an_error_is_not_taken_for_no_alarm(texts: list[str | None], code: int, said: str) -> None:
    with HTTPServer(("127.0.0.1", 0), _Metrics) as server:
        server.texts = list(texts)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            script = str(ROOT / "examples" / "clinic_ask.py")
            command = [sys.executable, script, "none", "alarms"]
            address = f"http://127.0.0.1:{server.server_port}"
            wait = "2" if code == 1 else "20"  # nothing more comes, or it does
            ran = subprocess.run(
                [*command, address, "--wait", wait], capture_output=True, text=True, check=False
            )
        finally:
            server.shutdown()
            thread.join()

    assert ran.returncode == code, ran.stdout + ran.stderr
    assert said in ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs PneumoniaMNIST")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_whole_way_from_training_to_an_alarm(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    ran = subprocess.run(
        [ROOT / "examples" / "clinic.sh", ARCHIVE, tmp_path / "clinic"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    made = tmp_path / "clinic"
    evaluated = json.loads((made / "run" / "evaluation.json").read_text("utf-8"))
    auc = evaluated["everybody"]["figures"]["auc"]
    assert auc["low"] < auc["value"] < auc["high"]
    report = (made / "run" / "report.html").read_text("utf-8")
    assert "95 %" in report  # the intervals are in it
    assert (made / "explanation.png").read_bytes().startswith(b"\x89PNG")
    asked, drifted = ran.stdout.split("shows bones black")
    assert "524 images, 524 answers" in asked
    assert "no alarm\n" in asked
    assert "an alarm where nothing changed" not in ran.stderr
    assert "524 drifted images, 524 answers" in drifted
    assert 'feature="mean"' in drifted
    assert "ALARM" in drifted
