"""Rows on disk: the same as a tensor's, wherever records are used, and never all in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fedward.client.data.records import Parts, RawRecords, Records
from fedward.client.data.stored import FileRows, Stored, in_pieces, joined
from fedward.client.evaluation import mean_loss, metric_sums, patient_sums
from fedward.client.population import population_digest
from fedward.client.scaling import measured_sums, noisy_sums, scaled
from fedward.client.site import Site
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.secret_stream import SecretStream
from fedward.simulation.canaries import draw_canaries, population, suspects_of
from fedward.study.errors import DataError
from fedward.study.messages import Contribution, TrainRequest
from fedward.study.scaling import Scaling
from fedward.study.study import Study
from tests.client.conftest import PRIVATE, House, StudyWith, answer, judging, training

NAMED = {"format": "csv", "path": "t.csv", "patient": "record"}


def stored(array: NDArray[Any], folder: Path) -> Stored:
    path = folder / f"{len(list(folder.iterdir()))}.rows"
    path.write_bytes(array.tobytes())
    with path.open("rb") as file:
        return Stored(FileRows(file.fileno(), array.shape, array.dtype))


def on_disk(records: Records, folder: Path) -> Records:
    if not len(records):
        return records
    rows = stored(records.whole.numpy(), folder)
    return Records(rows, records.labels, records.patients, records.people)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_choice_of_a_choice_is_numpys(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([np.float32, np.int64]))
    array = np.random.default_rng(0).integers(-9, 9, (data.draw(st.integers(1, 30)), 2, 3))
    expected = array.astype(kind)
    seen = stored(expected, tmp_path)
    for _ in range(data.draw(st.integers(0, 3))):
        which = data.draw(choices(len(seen)))
        seen, expected = seen.chosen(which), expected[numpys(which)]

    last = data.draw(choices(len(seen)))

    assert len(seen) == len(expected)
    assert seen.shape == expected.shape
    assert seen.dtype == expected.dtype
    found = seen[last]
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.from_numpy(expected).dtype
    assert found.numpy().tolist() == expected[numpys(last)].tolist()
    size = data.draw(st.integers(1, 40))
    pieces, whole = list(seen.split(size)), torch.from_numpy(expected)
    assert [p.tolist() for p in pieces] == [p.tolist() for p in whole.split(size)]


def choices(count: int) -> st.SearchStrategy[Any]:
    numbers = st.lists(st.integers(-count, count - 1), max_size=9) if count else st.just([])
    mask = st.lists(st.booleans(), min_size=count, max_size=count)
    return st.one_of(
        numbers.map(lambda n: torch.tensor(n, dtype=torch.int64)),
        numbers.map(lambda n: np.array(n, dtype=np.int64)),
        mask.map(lambda m: np.array(m, dtype=bool)),
        mask.map(lambda m: torch.tensor(m, dtype=torch.bool)),
        st.slices(count),
    ).filter(lambda w: not isinstance(w, slice) or (w.step or 1) > 0)


def numpys(which: Any) -> Any:  # noqa: ANN401
    return which.numpy() if isinstance(which, torch.Tensor) else which


class Counting:
    """Rows that count what is read of them."""

    shape, dtype = (100, 2), np.dtype(np.float32)

    def __init__(self) -> None:
        self.read = 0

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        self.read += len(numbers)
        return np.repeat(numbers[:, None], 2, axis=1).astype(np.float32)


def test_only_what_is_asked_for_is_read() -> None:
    rows = Counting()
    raw = RawRecords(
        Stored(rows),
        labels=np.arange(100),
        patients=np.arange(100),
        names=np.arange(100).astype(str),
        rows=np.arange(100),
    )

    few = raw.chosen(np.arange(100) % 2 == 1)
    assert isinstance(few.inputs, Stored)
    assert len(few) == len(few.inputs) == 50
    assert rows.read == 0
    assert few.inputs[torch.tensor([3, 0])].tolist() == [[7, 7], [1, 1]]
    assert rows.read == 2
    assert next(iter(few.inputs.split(10))).tolist()[9] == [19, 19]
    assert rows.read == 12


def test_what_is_read_may_be_written_to_and_changes_nothing(tmp_path: Path) -> None:
    rows = stored(np.ones((3, 2), np.float32), tmp_path)

    rows[:].zero_()

    assert rows[:].tolist() == [[1, 1]] * 3


def test_a_row_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    rows = stored(np.ones((3, 2), np.float32), tmp_path).chosen(slice(2))

    for wrong in (torch.tensor([2]), np.array([-3]), np.ones(3, dtype=bool)):
        with pytest.raises(IndexError):
            rows[wrong]


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(23))

    with path.open("rb") as file, pytest.raises(DataError, match="23 bytes, not 24"):
        FileRows(file.fileno(), (3, 2), np.dtype(np.float32))


def test_many_become_one(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(n).random((n, 3)).astype(np.float32) for n in (4, 1, 6)]
    pieces: list[torch.Tensor | Stored] = [
        stored(arrays[0], tmp_path),
        torch.from_numpy(arrays[1]),
        stored(arrays[2], tmp_path),
    ]
    whole = torch.from_numpy(np.concatenate(arrays))

    found = joined(pieces)

    assert isinstance(found, Stored)
    order = torch.tensor([10, 4, 0, 4, 9, 3])
    assert found[order].equal(whole[order])
    assert found.chosen(order).mapped(lambda rows: 2 * rows)[1:4].equal(2 * whole[order[1:4]])
    assert np.array_equal(np.concatenate(list(in_pieces(found))), whole.numpy())
    assert isinstance(joined([whole, whole]), torch.Tensor)


# --- Wherever records are used --------------------------------------------------------------------


def both(house: House, study: Study, folder: Path) -> list[Site]:
    """The same hospital twice: with its records in memory, and with them on disk."""
    sites = []
    for disk in (False, True):
        site = house.site(
            data=NAMED,
            simulation={"seed": 5},
            limits={"declared_patients": 28},
            state=f"state-{disk}",  # each is charged on its own
        )
        parts: Parts = site.load(study.digest()).parts
        if disk:
            site.keep(study, {part: on_disk(records, folder) for part, records in parts.items()})
        sites.append(site)
    return sites


@pytest.mark.parametrize(
    "changes", [{"training.local_epochs": 2}, {"privacy": PRIVATE}], ids=["plain", "private"]
)
def test_training_is_the_same_bit_for_bit(
    house: House,
    plain_study: StudyWith,
    tmp_path_factory: pytest.TempPathFactory,
    changes: dict[str, object],
) -> None:
    study = plain_study(changes)
    house.approve(study)
    updates = []
    for site in both(house, study, tmp_path_factory.mktemp("rows")):
        asked: list[TrainRequest] = [training(study), training(study, 2)]
        found = [answer(site, request) for request in asked]
        judged = answer(site, judging(study))
        assert all(isinstance(a, Contribution) for a in (*found, judged)), found
        updates.append([a.vector.tobytes() for a in (*found, judged)])  # type: ignore[union-attr]

    assert updates[0] == updates[1]
    assert updates[0][0] != updates[0][1]


def test_judging_and_the_digest_are_the_same(
    house: House, study: Study, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one, other = (
        site.load(study.digest()).parts["train"]
        for site in both(house, study, tmp_path_factory.mktemp("rows"))
    )
    task, model = task_of(study), build(study, seed=0)

    assert isinstance(other.inputs, Stored)
    for this in (one, other):
        assert len(this.first(7)) == len(this.first(7).inputs) == 7
    for size in (0, 1, len(one)):
        sums = [metric_sums(model, r.first(size), task).tolist() for r in (one, other)]
        assert sums[0] == sums[1]
        assert mean_loss(model, one.first(size), task) == mean_loss(model, other.first(size), task)
    digests = [population_digest(r, house.folder / "state") for r in (one, other, one.first(3))]
    assert digests[0] == digests[1] != digests[2]
    moved = other.to(torch.device("cpu"))
    assert moved.inputs is other.inputs


def test_measured_constants_are_the_same(
    house: House, plain_study: StudyWith, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = plain_study(
        {"data.scaling": "measured", "data.features": {"age": {"bounds": [0.0, 120.0]}}}
    )
    house.approve(study)
    one, other = (
        s.load(study.digest()).parts for s in both(house, study, tmp_path_factory.mktemp("r"))
    )
    scaling = Scaling((50.0,), (10.0,))

    sums = [measured_sums(p["train"], study) for p in (one, other)]
    assert np.array_equal(sums[0], sums[1])
    for part in ("train", "test"):
        found = [scaled(p, study.data, scaling)[part].whole for p in (one, other)]
        assert found[0].equal(found[1])
        assert not found[0].equal(one[part].whole)


def test_masks_are_not_read_for_statistics(study_with: StudyWith) -> None:
    """They are of no class that is counted, and may be too many for memory."""
    masks = Counting()
    count = len(Stored(masks))
    records = Records(torch.rand(count, 1, 4, 6), Stored(masks), torch.arange(count) // 2)
    study = study_with(
        {
            "task": {"kind": "segmentation", "classes": ["none", "lung"]},
            "model": {"name": "unet"},
            "data": {"kind": "images", "shape": [1, 4, 6], "statistics": {"bins": 5}},
        }
    )
    stream = SecretStream.pretended(0)

    sums = measured_sums(records, study)
    noisy = noisy_sums(
        records, study, most=3, noise_multiplier=1.0, declared=9, sampling=stream, noise=stream
    )

    assert masks.read == 0
    assert len(sums) == len(noisy)
    assert sums[0] == 50
    cells = sums[-20:].reshape(4, 5)  # a histogram of each of four numbers
    assert cells.sum(axis=1) == pytest.approx([50] * 4)


def test_canaries_join_patients_on_disk(study: Study, tmp_path: Path, house: House) -> None:
    known = house.site(data=NAMED).load(study.digest()).parts["train"]
    rows = on_disk(known, tmp_path)
    canaries = draw_canaries(study, 6, copies=2, seed=0)

    for make in (population, suspects_of):
        one, other = make(known, canaries), make(rows, canaries)
        assert one.inputs[:].equal(other.inputs[:])
        assert one.patients.equal(other.patients)


class Landed(torch.Tensor):
    """Rows that came from disk to the CPU: they can be sent to the device, and nothing else."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - as torch calls it
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the function gives
        if func is torch.Tensor.to:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(torch.Tensor).to(*args[1:], **(kwargs or {}))
        raise RuntimeError("expected all tensors to be on the same device")


def landing(rows: Tensor, folder: Path) -> Stored:
    return stored(rows.numpy(), folder).mapped(lambda found: found.as_subclass(Landed))


def test_rows_of_noised_evaluation_come_to_the_device(
    plain_study: StudyWith, tmp_path: Path, house: House
) -> None:
    study = plain_study({"privacy": PRIVATE | {"evaluation_noise_multiplier": 3.0}})
    house.approve(study)
    known = house.site(data=NAMED).load(study.digest()).parts["test"]
    rows = replace(known, inputs=landing(known.whole, tmp_path))
    task, model = task_of(study), build(study, seed=0)
    assert isinstance(task, NoisedClassification)

    one, other = (
        patient_sums(model, some, task, SecretStream.pretended(1)) for some in (known, rows)
    )
    assert one[0] == len(known.patients.unique())
    assert one.tolist() == other.tolist()


def test_labels_of_suspects_come_to_the_device(study: Study, tmp_path: Path, house: House) -> None:
    known = house.site(data=NAMED).load(study.digest()).parts["train"]
    rows = replace(known, labels=landing(known.whole_labels, tmp_path))
    canaries = draw_canaries(study, 6, copies=2, seed=0)

    for make in (population, suspects_of):
        one, other = make(known, canaries), make(rows, canaries)
        assert isinstance(one.labels, Tensor)
        assert isinstance(other.labels, Tensor)
        assert one.labels.equal(other.labels)


# --- Memory ---------------------------------------------------------------------------------------

TRAINER = """
import ctypes, gc, resource, sys
import numpy as np, torch
from fedward.client.data.records import Records
from fedward.client.data.stored import FileRows, Stored
from fedward.client import evaluation
from fedward.client.population import population_digest
from fedward.client.training import train
from fedward.models.registry import build, read_settled
from fedward.models.task import task_of
from fedward.privacy.steps import PlainSteps
from pathlib import Path

def in_use():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed does not count as there before
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return pages * resource.getpagesize()

def peak():
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) * 1024 for l in lines if l.startswith("VmHWM"))

torch.set_num_threads(1)
evaluation._BATCH = 64  # the work itself is to be small beside the records
folder, count, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
study = read_settled(folder / "study.toml")
model, task = build(study, seed=0), task_of(study)

def work(rows):
    records = Records(rows, torch.arange(len(rows)) % 2, torch.arange(len(rows)))
    steps = PlainSteps(64, 1, None, torch.Generator().manual_seed(0))
    train(model, records, study, task, steps)
    evaluation.metric_sums(model, records, task)
    population_digest(records, folder / "state")

with (folder / "rows").open("rb") as file:
    rows = Stored(FileRows(file.fileno(), (count, 1, width, width), np.dtype(np.float32)))

def grown(rows):
    before = in_use()
    work(rows if sys.argv[4] == "stored" else rows[:])
    return peak() - before

few = rows.chosen(slice(count // 10))
grown(few)  # loads what is loaded once
print(grown(rows) - grown(few))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_training_needs_little_memory(tmp_path: Path, study_with: StudyWith) -> None:
    import tomli_w

    count, width = 6400, 128  # 419 MB
    study = study_with(
        {
            "data": {"kind": "images", "shape": [1, width, width]},
            "model": {"name": "small_cnn", "channels": [1]},
            "aggregation.secure": False,
        }
    )
    (tmp_path / "study.toml").write_bytes(
        tomli_w.dumps(study.model_dump(mode="json", exclude_none=True)).encode()
    )
    piece = np.random.default_rng(0).random((64, width, width), dtype=np.float32).tobytes()
    with (tmp_path / "rows").open("wb") as file:
        for _ in range(count // 64):
            file.write(piece)
    size = os.path.getsize(tmp_path / "rows")
    grown = {}
    for kind in ("stored", "memory"):
        command = [sys.executable, "-c", TRAINER, str(tmp_path), str(count), str(width), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        grown[kind] = int(done.stdout)

    more = size * 9 // 10  # of the whole file than of the first tenth
    assert grown["memory"] > 0.9 * more  # the measure sees what it is to see
    assert grown["stored"] < 0.25 * more
