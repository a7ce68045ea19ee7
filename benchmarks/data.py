"""Records a second of our readers beside plain libraries on the same files, in one run, in turns.

    python benchmarks/data.py [--json] [--quick] [--rounds N] [--only NAME]

A kind of files is one function of `KINDS`: it writes (or finds) files, and says how a plain loop
reads record n. The first epoch decodes the files; cached ones read what the first one kept.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from report import Report, Row, arguments, cores, row, show
from torch.utils.data import DataLoader, Dataset

from fedward.client.data import decoded as decoding
from fedward.client.data.context import Context
from fedward.client.data.reading import read_with
from fedward.client.data.sources import FolderSource, Source
from fedward.client.data.stored import Stored
from fedward.study.study import Study, parse_study

REPEATS, BATCH, LEAST = 5, 64, 0.9


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        name: For the table.
        study: That asks for them.
        source: As in `hospital.toml`, with an absolute path.
        count: Records.
        plain: Record n as a plain program reads it, float32, exactly what the study asks for.
        peer: What that program is.
    """

    name: str
    study: Study
    source: Source
    count: int
    plain: Callable[[int], NDArray[np.float32]]
    peer: str


# --- Kinds of files -------------------------------------------------------------------------------


def small_png(folder: Path, quick: bool) -> Kind:
    return _pictures(folder, "PNG 28 x 28 grey", (1, 28, 28), "png", 64 if quick else 4000)


def large_png(folder: Path, quick: bool) -> Kind:
    return _pictures(folder, "PNG 512 x 512 grey", (1, 512, 512), "png", 64 if quick else 300)


def jpeg(folder: Path, quick: bool) -> Kind:
    return _pictures(folder, "JPEG 224 x 224 colour", (3, 224, 224), "jpg", 64 if quick else 800)


KINDS = [small_png, large_png, jpeg]


def _pictures(folder: Path, name: str, shape: tuple[int, int, int], end: str, count: int) -> Kind:
    """Smooth pictures with a little noise, as scans are, in a folder a class."""
    rng, files = np.random.default_rng(0), []
    channels, *size = shape
    across = np.linspace(0, 9, size[0])
    for number in range(count):
        smooth = 60 * np.add.outer(np.sin(across + number), np.cos(across * 1.3)) + 128
        noisy = np.stack([smooth + rng.normal(0, 5, size) for _ in range(channels)], axis=-1)
        pixels = noisy.clip(0, 255).astype(np.uint8)
        file = folder / ("no", "yes")[2 * number // count] / f"{number:06}.{end}"
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file)
        files.append(file)
    mode = "L" if channels == 1 else "RGB"

    def plain(number: int) -> NDArray[np.float32]:
        with Image.open(files[number]) as image:
            pixels = np.asarray(image.convert(mode), dtype=np.float32)
        pixels = (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)

    source = FolderSource(format="folder", path=str(folder), patient="record")
    return Kind(name, _study({"kind": "images", "shape": list(shape)}), source, count, plain, "PIL")


def _study(data: dict[str, Any]) -> Study:
    return parse_study(
        {
            "study": {"name": "data"},
            "task": {"kind": "binary", "classes": ["no", "yes"]},
            "model": {"name": "small_cnn"},
            "data": data,
            "training": {"rounds": 1, "local_epochs": 1, "batch_size": BATCH, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


# --- What is timed --------------------------------------------------------------------------------


class _Plain(Dataset[torch.Tensor]):
    """The plain program as a data set of PyTorch's."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __len__(self) -> int:
        return self._kind.count

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._kind.plain(number)))


def measure(kind: Kind, folder: Path, repeats: int) -> list[Row]:
    """Rows of one kind; the sides come in turns, every second time in the opposite order."""
    cache = Context(folder, cache=folder / "cache")
    whole = torch.from_numpy(np.stack([kind.plain(n) for n in range(kind.count)]))
    kept = _kept(kind, cache, whole)
    loaders = {f"DataLoader, {n} workers": n for n in {0, cores()}}
    sides: dict[str, Callable[[], None]] = {
        "first": lambda: _first(kind, cache),
        "cached": lambda: _batches(kept),
        "loop": lambda: _loop(kind),
        "memory": lambda: _batches(whole),
        **{name: lambda n=n: _loader(kind, n) for name, n in loaders.items()},  # type: ignore[misc]
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            if name == "first":
                shutil.rmtree(folder / "cache")
            started = time.perf_counter()
            sides[name]()
            rates[name].append(kind.count / (time.perf_counter() - started))
    loader = max(loaders, key=lambda name: float(np.median(rates[name])))
    pairs = [
        ("first epoch", "first", "loop", f"{kind.peer} in a loop"),
        ("first epoch", "first", loader, loader),
        ("cached epoch", "cached", loader, loader),
        ("cached epoch", "cached", "memory", "a tensor in memory"),
    ]
    return [
        row(f"{kind.name}, {epoch}", rates[ours], rates[peer], unit="records/s", peer_name=said)
        for epoch, ours, peer, said in pairs
    ]


def _kept(kind: Kind, cache: Context, whole: torch.Tensor) -> Stored:
    """What a first epoch kept on disk: the same records in the same order as the plain loop's."""
    with _all_large():
        inputs = read_with(kind.source, kind.study, cache).inputs
    assert isinstance(inputs, Stored)
    assert torch.allclose(inputs[:], whole, atol=1e-6), kind.name
    return inputs


def _first(kind: Kind, cache: Context) -> None:
    with _all_large():
        _batches(read_with(kind.source, kind.study, cache).inputs)


def _batches(inputs: Any) -> None:  # noqa: ANN401
    """One epoch in random order."""
    for chosen in torch.randperm(len(inputs)).split(BATCH):
        assert len(inputs[chosen]) == len(chosen)


def _loop(kind: Kind) -> None:
    for number in range(kind.count):
        kind.plain(number)


def _loader(kind: Kind, workers: int) -> None:
    for batch in DataLoader(_Plain(kind), BATCH, shuffle=True, num_workers=workers):
        assert len(batch)


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
    options = parser.parse_args()
    report = Report("data")
    for make in KINDS:
        if options.only not in {None, make.__name__}:
            continue
        with tempfile.TemporaryDirectory() as folder:
            kind = make(Path(folder) / "files", options.quick)
            repeats = options.rounds or (2 if options.quick else REPEATS)
            report.rows += measure(kind, Path(folder), repeats)
    _judge(report)
    show(report, packages=["fedward", "numpy", "pillow", "torch"], as_json=options.json)


def _judge(report: Report) -> None:
    """Whether no reader is much slower than the plain one, in this run."""
    for entry in report.rows:
        said = "reached" if entry.ratio >= LEAST else "missed"
        name = f"goal: {entry.name}, {entry.peer_name}"
        report.checks[name] = f"{entry.ratio:.2f} of it, at least {LEAST}: {said}"


if __name__ == "__main__":
    main()
