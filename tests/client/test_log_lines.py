"""Log lines quote no patient; what may quote one is in a file of its owner's alone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import logging, sys
from pathlib import Path
from fedward.client.log_lines import configure_worker_log
from fedward.study.errors import BudgetError, DataError
configure_worker_log(Path(sys.argv[1]))
log = logging.getLogger("fedward.client")
for error in (DataError("row 17: 'Mrs Miller'"), KeyError("Mrs Miller"), BudgetError("no more")):
    log.error("%s: %s", type(error).__name__, error)
"""
LEFT_OUT = """
import sys
from pathlib import Path
from fedward.client.data.faults import STRICT, Lenient, Unreadable
from fedward.client.log_lines import configure_worker_log
configure_worker_log(Path(sys.argv[1]))
Lenient(STRICT).add(Unreadable("no image", where="scans/Miller_Mary.dcm"), 0)
"""


@pytest.mark.parametrize("as_json", [False, True])
def test_a_record_that_an_error_quotes_stays_in_the_owners_file(
    tmp_path: Path, as_json: bool
) -> None:
    path = tmp_path / "hospital.toml"
    path.write_text('name = "n"\n[data]\nformat = "csv"\npath = "x.csv"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(path)],
        env={"FEDWARD_JSON_LOG": "1"} if as_json else {},
        capture_output=True,
        text=True,
        check=True,
    )

    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "Miller" not in done.stderr
    assert "DataError: what it says is in trouble.log" in lines[0]
    assert "BudgetError: no more" in lines[2]
    if as_json:
        assert json.loads(lines[0])["level"] == "error"
    trouble = tmp_path / "state" / "trouble.log"
    assert trouble.read_text("utf-8").count("Mrs Miller") == 2
    assert stat.S_IMODE(trouble.stat().st_mode) == 0o600


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_does_not_send_a_record_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "hospital.toml"
    path.write_text('name = "n"\n[data]\nformat = "csv"\npath = "x.csv"\n', encoding="utf-8")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "trouble.log").symlink_to("/dev/full")
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(path)],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Miller" not in done.stderr
    assert done.stderr.count("trouble.log cannot be written: ERROR is lost") == 3
    assert "DataError: what it says is in trouble.log" in done.stderr


def test_a_standard_error_that_is_full_is_no_reason_to_quote(tmp_path: Path) -> None:
    script = "import logging; from fedward.client.log_lines import configure_log; configure_log()"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(logging.raiseExceptions)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "False\n"


def test_a_file_that_is_left_out_is_named_in_the_owners_file_alone(tmp_path: Path) -> None:
    """Files are called after patients; the hospital's own check names them too."""
    path = tmp_path / "hospital.toml"
    path.write_text('name = "n"\n[data]\nformat = "csv"\npath = "x.csv"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OUT, str(path)], capture_output=True, text=True, check=True
    )

    assert "left out: what it says is in trouble.log" in done.stderr
    assert "Miller" not in done.stderr
    assert "Miller_Mary" in (tmp_path / "state" / "trouble.log").read_text("utf-8")
