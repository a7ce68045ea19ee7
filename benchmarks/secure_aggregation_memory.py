"""Peak memory of the aggregator's process, in models (4 bytes a parameter); each in a new process.

Vectors come one by one from files, as bytes or as the objects of a Flower message, which are
inflated as Flower's `HttpGrid.pull_messages` does, one message at a time. Flower's workflow asks
for all replies at once and holds them. What was there before the first vector is taken off.
"""

from __future__ import annotations

import pickle
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import secure_aggregation_flower_server as flower
import secure_aggregation_ours as ours
import secure_aggregation_plain as plain
from flwr.common import ndarray_to_bytes
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from secure_aggregation_flower import Cohort
from secure_aggregation_turns import normal_vector, random_words
from secure_aggregation_wire import objects, vector_content

RESET = Path("/proc/self/clear_refs")


def write_vectors(folder: Path, size: int) -> None:
    """One vector for each side; all hospitals send the same one."""
    words = random_words(size)
    (folder / "ours.bin").write_bytes(words.tobytes())
    (folder / "plain.bin").write_bytes(normal_vector(size).tobytes())
    (folder / "flower.bin").write_bytes(flower.packed(words))
    found = objects(vector_content(words, {"hospital": "hospital-000"}))
    for number, content in enumerate(found.values()):
        (folder / f"object-{number:02}").write_bytes(content)
    (folder / "names.pickle").write_bytes(pickle.dumps(list(found)))


def of_ours(folder: str, size: int, hospitals: int, *, arriving: str, trace: bool) -> Any:  # noqa: ANN401
    """A `SecureSum` from the first vector to the mean update."""
    with tempfile.TemporaryDirectory() as journals:
        prepared = ours.prepare(ours.Consortium(hospitals, Path(journals)), 0)
    read = {"bytes": _read, "messages": _inflated, "emptied": _emptied}[arriving]
    vectors = (read(Path(folder), "ours.bin") for _ in range(hospitals))
    return _peak(lambda: ours.aggregate(prepared, vectors, size), size, trace=trace)


def of_plain(folder: str, size: int, hospitals: int, *, trace: bool) -> Any:  # noqa: ANN401
    """A float32 sum and mean."""
    vectors = (_read(Path(folder), "plain.bin") for _ in range(hospitals))
    return _peak(lambda: plain.mean(vectors, size), size, trace=trace)


def of_flower(folder: str, size: int, hospitals: int, *, trace: bool) -> Any:  # noqa: ANN401
    """The last two stages of Flower's workflow; all replies are there at once, as it wants them."""
    prepared = flower.prepare(Cohort(hospitals), 0)
    factor = ndarray_to_bytes(np.array([flower.RANGE // 2]))

    def replies() -> Iterator[Any]:
        for node in prepared.active:
            yield flower.reply(node, [factor, _read(Path(folder), "flower.bin")])

    return _peak(lambda: flower.aggregate(prepared, list(replies())), size, trace=trace)


def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _inflated(folder: Path, _: str) -> bytes:
    data: bytes = _record(folder)["vector"].data
    return data


def _emptied(folder: Path, _: str) -> bytes:
    """Inflated messages are in reference cycles: unless emptied, they stay until a collection."""
    record = _record(folder)
    data: bytes = record["vector"].data
    record.clear()
    return data


def _record(folder: Path) -> Any:  # noqa: ANN401
    names = pickle.loads((folder / "names.pickle").read_bytes())  # noqa: S301 - just written
    contents = {
        name: (folder / f"object-{number:02}").read_bytes() for number, name in enumerate(names)
    }
    message: Any = inflate_object_from_contents(names[-1], contents)
    return message.content.array_records["arrays"]


def _peak(work: Callable[[], object], size: int, *, trace: bool) -> dict[str, float]:
    model = 4 * size
    if trace:
        tracemalloc.start()
        work()
        return {"models": tracemalloc.get_traced_memory()[1] / model}
    RESET.write_text("5", encoding="utf-8")  # the peak so far was the imports'
    before = _resident("VmRSS")
    work()
    return {"models": (_resident("VmHWM") - before) / model}


def _resident(which: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith(which))
