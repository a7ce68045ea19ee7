"""Measuring in a fresh process: `python parts.py MODULE FUNCTION '{"argument": value}' OUT`.

Nothing that one measurement leaves behind (warm caches, Ray, numbers of threads) reaches another.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def measure(module: str, function: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a function of a module beside this one returns, and `process_seconds` from start to end.

    The number of threads is the machine's default, whatever the caller's environment says.
    """
    environment = {k: v for k, v in os.environ.items() if k not in {"OMP_NUM_THREADS"}}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, module, function, json.dumps(arguments), str(out)]
        started = time.perf_counter()
        done = subprocess.run(
            command, env=environment | _QUIET, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{module}.{function} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return {**found, "process_seconds": seconds}


def _main() -> None:
    module, function, arguments, out = sys.argv[1:]
    found = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _main()
