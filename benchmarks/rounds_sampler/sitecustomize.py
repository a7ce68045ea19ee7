"""Looks at every thread of a process now and then, and writes down what it was doing.

Python imports this by itself in each process that finds this folder in PYTHONPATH. Nothing happens
unless ROUNDS_SAMPLES names a folder: there each process leaves a JSON line every quarter of a
second.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

EVERY = 0.02  # seconds; more often, it would be what it measures
TOLD_EVERY = 0.25  # seconds; what was seen counts as seen when it is told
DEEPEST = 60


def _stack(frame: FrameType | None) -> str:
    places: list[str] = []
    while frame is not None and len(places) < DEEPEST:
        code = frame.f_code
        file = "/".join(code.co_filename.rsplit("/", 3)[1:]).removesuffix(".py")
        places.append(f"{file}:{code.co_name}")
        frame = frame.f_back
    return ";".join(places)  # the innermost first


def _watch(folder: Path) -> None:
    own = threading.get_ident()
    found: Counter[str] = Counter()
    told = time.time()
    with (folder / f"{os.getpid()}.jsonl").open("w", encoding="utf-8") as out:
        while True:
            time.sleep(EVERY)
            main = threading.main_thread().ident
            for thread, frame in sys._current_frames().items():
                if thread != own:
                    found[f"{'main' if thread == main else 'other'};{_stack(frame)}"] += 1
            if time.time() - told >= TOLD_EVERY:
                told = time.time()
                line = {"at": told, "words": sys.orig_argv, "stacks": found}
                out.write(json.dumps(line) + "\n")
                out.flush()
                found.clear()


if folder := os.environ.get("ROUNDS_SAMPLES"):
    threading.Thread(target=_watch, args=[Path(folder)], daemon=True).start()
