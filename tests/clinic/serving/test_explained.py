"""The service explains as `fedward explain` does, by asking the model that it serves."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedward.clinic.asked_model import read_asked_model
from fedward.clinic.explaining import Explanation, explain
from fedward.clinic.explanation_picture import picture_of
from fedward.clinic.onnx_file import with_provenance
from fedward.clinic.serving import people
from fedward.clinic.serving.answering import Answering, Pace
from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel
from fedward.study.study import Study
from tests.clinic.serving.small_models import (
    PICTURES,
    ROWS,
    VOLUMES,
    linear_model,
    metadata,
    study_of,
    word_model,
)

DOLLARS = ["$\\frac{well", "ill $x$ <b>"]
PADDED = study_of(
    {"kind": "signals", "channels": ["b"], "rate": 50, "length": 20, "shorter": "pad"},
    {"kind": "binary", "classes": DOLLARS},
)


def linear(study: Study, path: Path) -> Path:
    numbers = int(np.prod(study.data.input_shape))
    matrix = np.random.default_rng(1).normal(size=(numbers, 2)).astype(np.float32)
    return linear_model(study, path, matrix)


def covered(path: Path, record: NDArray[Any]) -> people.Explanation:
    """What the service says of a record."""

    async def ask() -> people.Explanation:
        model = ServedModel(path)
        answering = Answering({model.name: model}, Gauges(), Pace(delay=0))
        try:
            return await people.covered(answering, model, record)
        finally:
            await answering.close()

    return asyncio.run(ask())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Explanation]:
    """Every explanation that gets a picture."""
    found: list[Explanation] = []

    def draw(explanation: Explanation, *rest: Any) -> bytes:  # noqa: ANN401
        found.append(explanation)
        return picture_of(explanation, *rest)

    monkeypatch.setattr(people, "picture_of", draw)
    return found


@pytest.mark.parametrize("study", [PICTURES, ROWS, PADDED, VOLUMES, None])
def test_the_service_explains_as_the_command_does(
    study: Study | None, tmp_path: Path, drawn: list[Explanation]
) -> None:
    path = tmp_path / "m.onnx"
    if study is None:
        word_model(path)
        record: NDArray[Any] = np.array([2, 5, 3, 0, 0, 0])
    else:
        linear(study, path)
        record = np.random.default_rng(0).normal(size=study.data.input_shape).astype(np.float32)
    if study is PADDED:
        record[-1] = np.arange(20) < 12
    why = covered(path, record)
    image = Image.open(io.BytesIO(why.png))
    assert image.format == "PNG"
    assert min(image.size) > 250
    (served,) = drawn
    known = explain(read_asked_model(path), torch.from_numpy(record[None]), served.target)
    assert served.method == known.method == "occlusion"
    assert np.allclose(served.values, known.values, atol=1e-5)
    # Every token of the words' model says as much for one class as for the other.
    assert bool(np.abs(served.values).max() > 0.1) is (study is not None)
    assert f"speak for {served.target}" in why.about
    if study is PADDED:  # what says where the recording ends is no part of it
        assert served.target in DOLLARS
        assert np.allclose(served.values[-1], 0)


def test_a_class_that_is_called_is_explained_though_another_is_likelier(
    tmp_path: Path, drawn: list[Explanation]
) -> None:
    path = linear_model(ROWS, tmp_path / "m.onnx", np.array([[0, -0.2]] * 3, np.float32))
    path.write_bytes(with_provenance(path.read_bytes(), metadata(ROWS, threshold=0.3)))
    covered(path, np.array([1.0, 0.0, 1.0], np.float32))
    assert [each.target for each in drawn] == ["ill"]


def test_what_is_not_explained_is_refused(tmp_path: Path) -> None:
    path = linear(ROWS, tmp_path / "m.onnx")
    with pytest.raises(Refusal, match="NaN"):
        covered(path, np.array([np.nan, 0, 1], np.float32))


def test_an_explanation_ends_with_whoever_wanted_it(tmp_path: Path) -> None:
    path = linear(VOLUMES, tmp_path / "m.onnx")
    record = np.ones(VOLUMES.data.input_shape, np.float32)
    asked: list[int] = []

    async def leave() -> int:
        model = ServedModel(path)
        answering = Answering({model.name: model}, Gauges(), Pace(delay=0.02))
        whole = answering.unwatched

        async def counted(*given: Any) -> Any:  # noqa: ANN401
            asked.append(1)
            return await whole(*given)

        answering.unwatched = counted  # type: ignore[assignment, method-assign]
        task = asyncio.create_task(people.covered(answering, model, record))
        while len(asked) < 3:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        before = len(asked)
        await asyncio.sleep(0.2)
        await answering.close()
        return before

    assert asyncio.run(leave()) == len(asked)
