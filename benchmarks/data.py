"""Records a second of our readers beside plain libraries on the same files, in one run, in turns.

    python benchmarks/data.py [--json] [--quick] [--rounds N] [--only NAME] [--reads]

A kind of files is one function of `data_kinds.KINDS`. Each row is told by the clock, and by the
processor's seconds, which other work on the machine disturbs less.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from data_kinds import BATCH, KINDS, Kind
from numpy.typing import NDArray
from report import Report, Row, arguments, cores, row, show
from torch.utils.data import DataLoader, Dataset

from fedward.client.data import decoded as decoding
from fedward.client.data.context import Context
from fedward.client.data.reading import read_with
from fedward.client.data.stored import Stored

REPEATS, LEAST = 7, 0.9
PACKAGES = [
    "fedward",
    "monai",
    "nibabel",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydicom",
    "torch",
    "wfdb",
]


class _Plain(Dataset[torch.Tensor]):
    """The plain program as a data set of PyTorch's."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __len__(self) -> int:
        return self._kind.count

    def __getitem__(self, number: int) -> torch.Tensor:
        assert self._kind.record is not None
        return torch.from_numpy(np.ascontiguousarray(self._kind.record(number)))


class _Pair(NamedTuple):
    """Two sides of a row."""

    what: str
    ours: str
    peer: str
    peer_name: str


def measure(kind: Kind, folder: Path, repeats: int, *, reads: bool = False) -> list[Row]:
    """Rows of one kind; the sides come in turns, every second time in the opposite order.

    With `reads` only the reading is measured, and no epochs.
    """
    whole = kind.whole()
    found = read_with(kind.source, kind.study, Context(folder)).inputs
    assert np.allclose(found, whole, atol=1e-6), kind.name
    sides: dict[str, Callable[[], object]] = {
        "read": lambda: read_with(kind.source, kind.study, Context(folder)),
        "plain": kind.whole,
        **kind.others,
    }
    pairs = [_Pair("read", "read", "plain", kind.peer)]
    pairs += [_Pair("read", "read", other, other) for other in kind.others]
    del found
    loaders: list[str] = []
    if kind.record is not None and not reads:
        kept = Context(folder, cache=folder / "cache")
        loaders = [f"DataLoader, {workers} workers" for workers in sorted({0, cores()})]
        monai = _monai(kind, whole) if kind.files else None
        sides |= _epochs(kind, kept, torch.from_numpy(whole))
        plain = _Plain(kind)
        sides |= {name: lambda n=name: _loader(plain, int(n.split()[1])) for name in loaders}  # type: ignore[misc]
        if monai is not None:
            sides["monai"] = lambda: _loader(monai, 0)
    clock: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            if name == "first":
                shutil.rmtree(folder / "cache")
            began = time.perf_counter(), _processor_seconds()
            sides[name]()
            clock[name].append(kind.count / (time.perf_counter() - began[0]))
            processor[name].append(kind.count / max(_processor_seconds() - began[1], 1e-6))
    if loaders:
        best = max(loaders, key=lambda name: float(np.median(clock[name])))
        pairs += [
            _Pair("first epoch", "first", "plain", f"{kind.peer}, no batches"),
            _Pair("first epoch", "first", best, best),
            _Pair("cached epoch", "cached", best, best),
            _Pair("cached epoch", "cached", "memory", "a tensor in memory"),
        ]
    if "monai" in sides:
        pairs += [
            _Pair("first epoch", "first", "monai", "MONAI's Dataset, 0 workers"),
            _Pair("cached epoch", "cached", "monai", "MONAI's Dataset, 0 workers"),
        ]
    return [
        row(
            f"{kind.name}, {p.what}", rates[p.ours], rates[p.peer], unit=unit, peer_name=p.peer_name
        )
        for p in pairs
        for rates, unit in ((clock, "records/s"), (processor, "records/processor s"))
    ]


def _epochs(kind: Kind, cache: Context, whole: torch.Tensor) -> dict[str, Callable[[], object]]:
    """A first epoch from files, a later one from what it kept, and one from memory."""
    with _all_large():
        kept = read_with(kind.source, kind.study, cache).inputs
    assert isinstance(kept, Stored)
    assert torch.allclose(kept[:], whole, atol=1e-6), kind.name

    def first() -> None:
        with _all_large():
            _batches(read_with(kind.source, kind.study, cache).inputs)

    return {"first": first, "cached": lambda: _batches(kept), "memory": lambda: _batches(whole)}


def _batches(inputs: Any) -> None:  # noqa: ANN401
    """One epoch in random order."""
    for chosen in torch.randperm(len(inputs)).split(BATCH):
        assert len(inputs[chosen]) == len(chosen)


def _loader(records: Dataset[torch.Tensor], workers: int) -> None:
    for batch in DataLoader(records, BATCH, shuffle=True, num_workers=workers):
        assert len(batch)


def _monai(kind: Kind, whole: NDArray[np.float32]) -> Dataset[torch.Tensor] | None:
    """MONAI's data set over the same files, its first record compared; None if it is not there.

    Its readers give width first: as of a volume, so of pictures.
    """
    try:
        from monai.data import Dataset as Files
        from monai.transforms import Compose, EnsureChannelFirst, LoadImage, ScaleIntensityRange
    except ImportError:
        return None
    steps = [
        LoadImage(image_only=True, dtype=np.float32),
        EnsureChannelFirst(),
        ScaleIntensityRange(*kind.ends, -1.0, 1.0, clip=True),
    ]
    found: Dataset[torch.Tensor] = Files([str(file) for file in kind.files], Compose(steps))
    first = np.asarray(found[0])
    assert np.allclose(first.transpose(0, *range(first.ndim - 1, 0, -1)), whole[0], atol=1e-5)
    return found


def _processor_seconds() -> float:
    """Of this process with all its threads, and of the workers that it waited for."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in each)


@contextmanager
def _all_large() -> Iterator[None]:
    """Even the small sets of this benchmark stay on disk, as larger ones do."""
    before, decoding.IN_MEMORY = decoding.IN_MEMORY, 0
    try:
        yield
    finally:
        decoding.IN_MEMORY = before


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[make.__name__ for make in KINDS])
    parser.add_argument("--reads", action="store_true", help="measure reading alone, no epochs")
    options = parser.parse_args()
    report = Report("data")
    for make in KINDS:
        if options.only not in {None, make.__name__}:
            continue
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "files"
            files.mkdir()
            kind = make(files, options.quick)
            repeats = options.rounds or (2 if options.quick else REPEATS)
            report.rows += measure(kind, Path(folder), repeats, reads=options.reads)
    _judge(report)
    show(report, packages=PACKAGES, as_json=options.json)


def _judge(report: Report) -> None:
    """Whether no reader is much slower than the plain one, in this run."""
    for entry in report.rows:
        said = "reached" if entry.ratio >= LEAST else "missed"
        name = f"goal: {entry.name}, {entry.peer_name}, {entry.unit}"
        report.checks[name] = f"{entry.ratio:.2f} of it, at least {LEAST}: {said}"


if __name__ == "__main__":
    main()
