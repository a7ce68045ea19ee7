"""The two services keep the memory that they free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

START = """
import sys
from fedward.study import freed_memory
freed_memory.keep_freed_memory = lambda: print("kept")
from fedward.cli.main import main
sys.argv = ["fedward", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("side", ["aggregator", "hospital"])
def test_a_service_keeps_what_it_frees_before_it_does_anything(side: str, tmp_path: Path) -> None:
    words = [side, "start", f"--{side}", str(tmp_path / "nowhere.toml")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", START, *words], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 2
    assert done.stdout.split() == ["kept"]
    assert "nowhere.toml" in done.stderr
