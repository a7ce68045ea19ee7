"""Whatever becomes of the process that reads: one answer, nothing left, the next upload read."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fedward.clinic.serving.reading import Reading
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel
from tests.clinic.serving.small_models import row_model

READER = """
import json, os, sys, time
from fedward.clinic import unlabelled
from fedward.clinic.serving import reading_process

real = unlabelled.read_unlabelled

def left():
    open(os.environ["TMPDIR"] + "/patient", "w").close()

def environment():
    raise unlabelled.DataError(",".join(sorted(os.environ)))

def read(files, study, scaling):
    (content,) = files.values()
    if not content.startswith(b"!"):
        return real(files, study, scaling)
    left()
    exec(content[1:].decode())

unlabelled.read_unlabelled = read
reading_process.main()
"""
LIAR = """
import sys

def told(head):
    sys.stdout.buffer.write(len(head).to_bytes(4, "little") + head)
    sys.stdout.buffer.flush()

told(b'{"sizes": []}')
told(sys.argv[1].encode())
sys.stdin.buffer.read()
"""
NONSENSE = (
    "{}",
    "[" * 100_000,
    '{"sizes": [], "status": "400", "what": "", "todo": ""}',
    '{"sizes": [], "status": [400], "what": "", "todo": ""}',
    '{"sizes": [], "status": 200, "what": "", "todo": ""}',
    '{"sizes": [], "status": 413}',
    '{"sizes": [], "dtype": "<f4", "shape": [0], "names": []}',
    '{"sizes": [0], "dtype": "O", "shape": [0], "names": []}',
    '{"sizes": [0], "dtype": "<f4", "shape": [2], "names": ["a", "b"]}',
    '{"sizes": [0], "dtype": "<f4", "shape": [0], "names": ["a"]}',
    '{"sizes": [0], "dtype": 7, "shape": 0, "names": 1}',
    '{"sizes": [0], "dtype": "<f4", "shape": 0, "names": 1}',
    '{"sizes": [0], "dtype": "<f4", "shape": [], "names": []}',
)
GOOD = {"rows.csv": b"age,sex\n65,m\n"}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel(row_model(tmp_path / "rows.onnx"))


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "reader.py"
    script.write_text(READER, encoding="utf-8")
    return (sys.executable, str(script))


def with_reading(reading: Reading, then: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        try:
            await then()
        finally:
            await reading.close()

    asyncio.run(run())


@pytest.mark.slow
def test_a_reader_that_misbehaves(
    temporary: Path, model: ServedModel, command: tuple[str, ...]
) -> None:
    reading = Reading([model], memory=64 << 20, seconds=1, command=command)
    expected = {
        "os.abort()": (400, 0),
        "time.sleep(60)": (413, 0),
        "while True: pass": (413, 0),
        "bytearray(3 << 30)": (413, 1),
    }

    async def ask() -> None:
        for code, (status, alive) in expected.items():
            await reading.read(model, GOOD)
            with pytest.raises(Refusal) as refused:
                await reading.read(model, {"a.csv": b"!" + code.encode()})
            assert refused.value.status == status, code
            assert len(list(temporary.iterdir())) == alive, code
        assert (await reading.read(model, GOOD)).names == ("rows.csv",)
        assert not reading.broken

    with_reading(reading, ask)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("told", NONSENSE)
def test_a_reader_that_speaks_nonsense_is_ended(
    temporary: Path, model: ServedModel, told: str
) -> None:
    reading = Reading([model], seconds=5, command=(sys.executable, "-S", "-c", LIAR, told))

    async def ask() -> None:
        with pytest.raises(Refusal, match="broke the process") as refused:
            await reading.read(model, GOOD)
        assert refused.value.status == 400
        assert list(temporary.iterdir()) == []

    with_reading(reading, ask)


@pytest.mark.slow
def test_a_reader_killed_while_it_reads_leaves_nothing(
    temporary: Path, model: ServedModel, command: tuple[str, ...]
) -> None:
    reading = Reading([model], command=command)
    code = b"!open(os.environ['TMPDIR'] + '/pid', 'w').write(str(os.getpid())); time.sleep(60)"

    async def ask() -> None:
        asked = asyncio.create_task(reading.read(model, {"a.csv": code}))
        while not [path for path in temporary.glob("*/pid") if path.read_text(encoding="ascii")]:
            await asyncio.sleep(0.05)
        (pid,) = temporary.glob("*/pid")
        assert pid.with_name("patient").exists()
        os.kill(int(pid.read_text(encoding="ascii")), signal.SIGKILL)
        with pytest.raises(Refusal) as refused:
            await asked
        assert refused.value.status == 400
        assert list(temporary.iterdir()) == []
        await reading.read(model, GOOD)

    with_reading(reading, ask)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_the_reader_sees_no_secret_of_the_operators(
    model: ServedModel, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATORS_PASSWORD", "x")
    reading = Reading([model], command=command)

    async def ask() -> None:
        with pytest.raises(Refusal) as refused:
            await reading.read(model, {"a.csv": b"!environment()"})
        assert "TMPDIR" in refused.value.what
        assert "PASSWORD" not in refused.value.what

    with_reading(reading, ask)


@pytest.mark.parametrize("command", [("/none",), (sys.executable, "-c", "pass")])
def test_a_reader_that_cannot_be_started_is_no_fault_of_the_senders(
    temporary: Path, model: ServedModel, command: tuple[str, ...]
) -> None:
    reading = Reading([model], command=command)

    async def ask() -> None:
        with pytest.raises(Refusal, match="the service cannot read files now") as refused:
            await reading.read(model, GOOD)
        assert refused.value.status == 503
        assert reading.broken
        assert list(temporary.iterdir()) == []

    with_reading(reading, ask)
