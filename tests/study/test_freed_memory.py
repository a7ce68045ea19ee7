"""What a process frees it gets back, instead of fresh pages that the system has to clear first."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from fedward.study.freed_memory import FREED_STAYS

PAGES = 3 * 20 * 2**20 // os.sysconf("SC_PAGE_SIZE")
# Three at a time, which together are more than glibc keeps of itself; without large pages.
ASK_AND_FREE = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
if sys.argv[1] == "here":
    from fedward.study.freed_memory import keep_freed_memory
    keep_freed_memory()
def ask_and_free():
    held = [bytearray(20_971_520) for _ in range(3)]
ask_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    ask_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt"
)


def fresh_pages(how: str, **settings: str) -> int:
    """Pages that a process was given for ten times the same memory, which it had had before."""
    own = {*FREED_STAYS, "GLIBC_TUNABLES"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
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
    assert fresh_pages("") > 5 * PAGES


@pytest.mark.parametrize(
    ("how", "settings"), [("here", {}), ("", FREED_STAYS)], ids=["itself", "a process it starts"]
)
def test_what_was_freed_is_used_again(how: str, settings: dict[str, str]) -> None:
    assert fresh_pages(how, **settings) < PAGES // 5


@pytest.mark.parametrize(
    "own",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
    ids=lambda own: next(iter(own)),
)
def test_what_the_environment_says_stays(own: dict[str, str]) -> None:
    assert fresh_pages("here", **own) > 5 * PAGES
