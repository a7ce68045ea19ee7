"""What a hospital lets a process use, tried on real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from fedward.client.hospital import read_hospital
from fedward.client.letter import unpack
from fedward.client.machine import MemoryExhausted, choose_precision, limit_process, within_memory
from fedward.client.worker import Worker
from fedward.study.errors import HospitalError, InputError
from fedward.study.messages import Answer, Contribution, Refusal
from fedward.study.study import Study
from fedward.study.wire import pack_request, unpack_answer
from tests.client.conftest import House, StudyWith, training
from tests.client.test_daemon import letter

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
LOOK = """
import resource, sys, torch
from pathlib import Path
from fedward.client.app import open_site
open_site(Path(sys.argv[1]))
print(torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_DATA)[0])
"""


def write(house: House, **training: float) -> Path:
    values = {
        "name": "north",
        "device": "cpu",
        "data": {"format": "csv", "path": "t.csv"},
        **({"training": training} if training else {}),
    }
    path = house.folder / "hospital.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return path


def looked(path: Path) -> list[str]:
    """Threads and memory of a process of its own that opened the hospital, as a SuperNode does."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, path], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@LINUX
def test_a_process_that_opens_the_hospital_keeps_to_its_limits(house: House) -> None:
    assert looked(write(house, threads=2, memory_gib=3.5)) == ["2", str(int(3.5 * 2**30))]


def test_nothing_is_limited_unless_it_is_said(house: House) -> None:
    import resource

    before = torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_DATA)

    limit_process(read_hospital(write(house)))

    assert (torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_DATA)) == before


def test_a_device_that_is_not_there_is_told_by_who_asks_for_it(house: House) -> None:
    hospital = read_hospital(write(house, memory_gib=2.0))

    limit_process(hospital.model_copy(update={"device": "cuda:97"}))


@pytest.mark.parametrize(
    ("key", "value"), [("memory_gib", 0.5), ("threads", 0), ("precision", "int8")]
)
def test_impossible_settings_are_named(key: str, value: float, house: House) -> None:
    with pytest.raises(HospitalError, match=rf"training\.{key}"):
        read_hospital(write(house, **{key: value}))


def test_a_device_without_bfloat16_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old GPU")
    hospital = read_hospital(write(house, precision="bfloat16"))  # type: ignore[arg-type]

    assert choose_precision(hospital, torch.device("cpu")).kind == "bfloat16"
    with pytest.raises(InputError, match="Old GPU has no bfloat16"):
        choose_precision(hospital, torch.device("cuda"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_every_word_for_it_becomes_one_error(error: Exception) -> None:
    with pytest.raises(MemoryExhausted, match="out of memory; "), within_memory():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), within_memory():
        raise RuntimeError("shapes do not fit")


# --- A real worker --------------------------------------------------------------------------------


@pytest.fixture
def worker(house: House) -> Iterator[Worker]:
    worker = Worker(write(house, memory_gib=1.0), deadline=120)
    yield worker
    worker.stop()


def answered(worker: Worker, study: Study) -> Answer:
    content = unpack(worker.ask(letter(1, pack_request(training(study))))).content
    short = content.config_records["terms"].get("float32", b"")
    assert isinstance(short, bytes)
    return unpack_answer(content, size=len(short) // 4)


@LINUX
@pytest.mark.slow
def test_work_that_needs_more_memory_is_refused_and_the_worker_goes_on(
    house: House, worker: Worker, plain_study: StudyWith
) -> None:
    rng = np.random.default_rng(1)
    lines = [f"{age},{'fm'[age % 2]},{age % 2}" for age in rng.integers(20, 90, 100_000)]
    house.write("age,sex,diagnosis\n" + "\n".join(lines) + "\n")
    small = plain_study({"training.local_epochs": 1, "training.batch_size": 20_000})
    greedy = plain_study(
        {"training.batch_size": "all", "model": {"name": "mlp", "hidden": [8192]}}
    )  # 70,000 x 8,192 numbers in one layer alone
    for study in (small, greedy):
        house.approve(study)
        (house.folder / "studies" / "study.toml").rename(
            house.folder / "studies" / f"{study.digest()[:8]}.toml"
        )

    assert isinstance(answered(worker, small), Contribution)
    process = worker.pid
    refusal = answered(worker, greedy)

    assert isinstance(refusal, Refusal)
    assert (refusal.hospital, refusal.error) == ("north", "MemoryExhausted")
    assert "memory_gib" in refusal.todo
    assert isinstance(answered(worker, small), Contribution)
    assert worker.pid == process
