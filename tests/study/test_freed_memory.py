"""What a process frees it gets back, instead of fresh pages that the system has to clear first."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from fedward.study.freed_memory import FREED_STAYS

PAGES = 32 * 2**20 // os.sysconf("SC_PAGE_SIZE")
ASK_AND_FREE = """
import resource, sys
if sys.argv[1] == "here":
    from fedward.study.freed_memory import keep_freed_memory
    keep_freed_memory()
bytes(bytearray(33_554_432))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytes(bytearray(33_554_432))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt"
)


def fresh_pages(how: str, **settings: str) -> int:
    """Pages that a process was given for ten times the same memory, which it had had before."""
    kept = {name: value for name, value in os.environ.items() if name not in FREED_STAYS}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK_AND_FREE, how],
        env=kept | settings,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


def test_as_it_comes_memory_goes_back_and_forth() -> None:
    """Else the other tests would show nothing."""
    assert fresh_pages("", MALLOC_MMAP_THRESHOLD_="131072") > 10 * PAGES


@pytest.mark.parametrize(
    ("how", "settings"), [("here", {}), ("", FREED_STAYS)], ids=["itself", "a process it starts"]
)
def test_what_was_freed_is_used_again(how: str, settings: dict[str, str]) -> None:
    assert fresh_pages(how, **settings) < PAGES


def test_what_the_environment_says_stays() -> None:
    assert fresh_pages("here", MALLOC_MMAP_THRESHOLD_="131072") > 10 * PAGES
