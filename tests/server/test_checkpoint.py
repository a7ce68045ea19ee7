"""Checkpoints are whole at whatever instant the process ends, and say what was put in."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.server.asked import Asked, AskedBefore
from fedward.server.checkpoint import Checkpoint, Checkpoints
from fedward.server.events import Refused, RoundFinished, RoundLost
from fedward.server.run_errors import RunPaused
from fedward.study.errors import DataError, OptionError
from fedward.study.messages import Refusal
from tests.server.cut_off import Killed, Watched, federate, private_study, sites_of

METRICS = {"records": 3, "loss": 0.1 + 0.2, "auc": None}


def checkpoint(number: int) -> Checkpoint:
    """What a reader can check: every number in it is the exchange's."""
    return Checkpoint(
        study="digest",
        run="run",
        seed=3,
        exchange=number,
        model=np.full(1000, number, np.float32),
        optimizer={"momentum": np.full(7, number, np.float64)},
        rounds=(
            RoundFinished(1, 2, 0.5, 3, 1, "validation", METRICS, attempts=2),
            RoundLost(2, 2, 0.1, 5, "why"),
        ),
        refusals=(Refused(1, Refusal("a", "RefusedError", "no", "ask")),),
        judged={"validation": np.full(4, number + 0.1), "test": None},
        counted={"a": number, "ä": 1},
        roster=number,
        seconds=1.25,
    )


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    arrays: dict[str, Any] = {"model": 0, "optimizer": 0, "judged": 0}
    plain = {k: v for k, v in vars(one).items() if k not in arrays}
    assert plain == {k: v for k, v in vars(other).items() if k not in arrays}
    assert one.model.dtype == other.model.dtype
    assert one.model.tobytes() == other.model.tobytes()
    assert one.optimizer.keys() == other.optimizer.keys()
    for name, array in one.optimizer.items():
        assert array.dtype == other.optimizer[name].dtype
        assert array.tobytes() == other.optimizer[name].tobytes()
    assert one.judged.keys() == other.judged.keys()
    for part, sums in one.judged.items():
        theirs = other.judged[part]
        assert (sums is None) == (theirs is None)
        assert sums is None or theirs is None or sums.tobytes() == theirs.tobytes()


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "c")
    assert kept.latest() is None
    for number in range(5):
        kept.save(checkpoint(number))
        found = Checkpoints(tmp_path / "c").latest()
        assert found is not None
        assert_same(found, checkpoint(number))
    assert len(list((tmp_path / "c").iterdir())) == 2  # older ones are gone


def test_every_call_that_writes_may_be_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of them in turn the process ends, before it or after it."""
    calls = ("open", "fsync", "rename", "mkdir", "unlink", "rmdir", "close")
    real = {name: getattr(os, name) for name in calls}
    seen = set()
    for last in range(100):
        folder, count = tmp_path / str(last), 0
        kept = Checkpoints(folder)
        for number in (1, 2):
            kept.save(checkpoint(number))

        def ending(name: str, last: int = last) -> Any:  # noqa: ANN401
            def call(*given: Any, **named: Any) -> Any:  # noqa: ANN401
                nonlocal count
                count += 1
                if count == last // 2 + 1 and last % 2:
                    real[name](*given, **named)
                if count > last // 2:  # nothing is done after the end, not even tidied up
                    raise Killed
                return real[name](*given, **named)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, ending(name))
            try:
                kept.save(checkpoint(3))
                ended = False
            except Killed:
                ended = True
        found = Checkpoints(folder).latest()
        assert found is not None
        assert_same(found, checkpoint(found.exchange))
        assert found.exchange in {2, 3}
        seen.add((ended, found.exchange))
        Checkpoints(folder).save(checkpoint(4))  # what was left behind is in nobody's way
        after = Checkpoints(folder).latest()
        assert after is not None
        assert_same(after, checkpoint(4))
        if not ended:
            break
    assert seen == {(True, 2), (True, 3), (False, 3)}


WRITER = """
import sys
from pathlib import Path
from dataclasses import replace
from fedward.server.checkpoint import Checkpoints
from fedward.server.asked import Asked, AskedBefore
from tests.server.test_checkpoint import checkpoint
import itertools
folder = Path(sys.argv[1])
kept, asked = Checkpoints(folder), AskedBefore(folder / "asked.json")
latest = kept.latest()
print("writing", flush=True)
for number in itertools.count(1 if latest is None else latest.exchange + 1):
    asked.write(Asked(number, (b"x" * 4000,), number))
    kept.save(checkpoint(number))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(1)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    told = 0
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        for _ in range(3):  # stopped at random instants to look, and killed at the last
            time.sleep(rng.uniform(0.01, 0.1))
            os.kill(writer.pid, signal.SIGSTOP)
            time.sleep(0.05)
            found = Checkpoints(folder).latest()
            if found is not None:
                assert_same(found, checkpoint(found.exchange))
            os.kill(writer.pid, signal.SIGCONT)
        time.sleep(rng.uniform(0, 0.05))
        writer.kill()
        lines = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        found = Checkpoints(folder).latest()
        assert found is not None
        assert_same(found, checkpoint(found.exchange))
        told = max([told, *map(int, lines)])
        assert found.exchange in {told, told + 1}  # what was told to be saved is
        asked = AskedBefore(folder / "asked.json")
        assert asked.read(found.exchange) or asked.read(found.exchange + 1)


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("change", ["cut", "flipped", "gone"])
def test_a_checkpoint_that_was_changed_is_refused_in_one_line(
    file: str, change: str, tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))
    path = tmp_path / "after-000001" / file
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-2] if change == "cut" else b"\x00" + content[1:])
    with pytest.raises(DataError) as caught:
        kept.latest()
    assert "\n" not in caught.value.line()
    assert "after-000001" in caught.value.line()


def test_a_full_disk_pauses_and_keeps_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(checkpoint(1))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunPaused, match="No space left on device"):
            kept.save(checkpoint(2))
    found = kept.latest()
    assert found is not None
    assert found.exchange == 1
    kept.save(checkpoint(2))


def test_what_was_asked_is_found_and_of_another_exchange_nothing(tmp_path: Path) -> None:
    asked = Asked(4, (b"\x00\xff", b"b"), 2, ("a", "b"))
    AskedBefore(tmp_path / "asked.json").write(asked)
    again = AskedBefore(tmp_path / "asked.json")
    assert again.read(4) == asked
    assert again.read(5) is None
    (tmp_path / "asked.json").write_bytes(b"{")
    with pytest.raises(DataError, match=r"asked\.json"):
        AskedBefore(tmp_path / "asked.json").read(4)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"seed": 6}, "seed"), ({"run": "other"}, "run"), ({"study": None}, "study")],
)
def test_the_checkpoint_of_something_else_is_refused(
    change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    study = private_study(training={"rounds": 1})
    files = list(sites_of(tmp_path, study).files.values())
    with Watched(files, lambda s, n: n == 1) as grid, pytest.raises(Killed):
        federate(study, grid, tmp_path / "c")
    other = private_study(training={"rounds": 2}) if "study" in change else study
    given = {key: value for key, value in change.items() if value is not None}
    with Watched(files) as grid, pytest.raises(OptionError, match=word) as caught:
        federate(other, grid, tmp_path / "c", **given)
    assert grid.steps == []
    assert "\n" not in caught.value.line()
    found = Checkpoints(tmp_path / "c").latest()
    assert found is not None
    assert found == replace(found)
