"""Requests whose reading must cost no more than what was sent."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel
from fedward.clinic.serving.tensors import from_numbers, read_request
from tests.clinic.serving.small_models import row_model, word_model


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A gigabyte more than now."""
    (now,) = [
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmData:")
    ]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.fixture
def rows(tmp_path: Path) -> ServedModel:
    return ServedModel(row_model(tmp_path / "rows.onnx"))


@pytest.fixture
def words(tmp_path: Path) -> ServedModel:
    return ServedModel(word_model(tmp_path / "words.onnx"))


def request(data: list[Any], **more: object) -> bytes:
    tensor = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("short", ["", 0.5, [""]])
def test_one_long_text_makes_no_other_long(rows: ServedModel, short: object) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(request([short] * 100_000 + ["x" * 100_000]), None, rows)
    assert refused.value.status == 400


@pytest.mark.parametrize("data", [[1, "1", 1.5], [1, True, 0], [1, None, 2], [[1], [1, 2]]])
def test_a_mixed_list_is_no_tensor(rows: ServedModel, data: list[Any]) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(request(data), None, rows)
    assert refused.value.status == 400


def test_numbers_of_a_datatype(rows: ServedModel, words: ServedModel) -> None:
    assert read_request(request([[1, 0.5, -1]]), None, rows).inputs.tolist() == [[1, 0.5, -1]]
    known = from_numbers([2**62, 1, -1], words.input, [1, 3])
    assert known.dtype == np.int64
    assert known.tolist() == [[2**62, 1, -1]]
    for wrong in ([1.0, 2, 3], [2**63, 0, 0], [True, False, True]):
        with pytest.raises(Refusal):
            from_numbers(wrong, words.input, [1, 3])
    with pytest.raises(Refusal, match="too large"):
        from_numbers([10**400, 0, 1], rows.input, [1, 3])


def test_an_output_is_asked_for_once(rows: ServedModel) -> None:
    twice = request([1, 0, 1], outputs=[{"name": "outputs"}] * 2)
    with pytest.raises(Refusal, match="an output is asked for twice"):
        read_request(twice, None, rows)
