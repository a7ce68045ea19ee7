"""An exported model is opened whole, or refused with the file that is wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedward.clinic.onnx_file import OnnxModel, with_provenance
from fedward.clinic.onnx_int8 import quantized
from fedward.clinic.serving.answering import Answering, Pace
from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.served_model import opened
from fedward.study.errors import DataError, FedwardError, OptionError
from fedward.study.scaling import Scaling
from tests.clinic.serving.small_models import (
    PICTURES,
    ROWS,
    expected,
    linear_model,
    metadata,
    picture_model,
    row_model,
    study_of,
)


def test_a_model_says_what_was_agreed_on(tmp_path: Path) -> None:
    model = opened([picture_model(tmp_path / "picture.onnx")])["picture"]
    assert model.study == PICTURES
    assert model.input.shape == (-1, 1, 12, 12)
    assert model.scaling is None
    pictures = np.random.default_rng(0).normal(size=(3, 1, 12, 12)).astype(np.float32)
    assert model.run(pictures)[0] == pytest.approx(expected(pictures), abs=1e-4)


def test_measured_constants_are_in_the_studys_order(tmp_path: Path) -> None:
    features = {name: {"bounds": [0, 100]} for name in ("weight", "age")}
    study = study_of({"kind": "table", "label": "x", "features": features, "scaling": "measured"})
    found = {"age": {"center": 50.0, "scale": 2.0}, "weight": {"center": 70.0, "scale": 3.0}}
    path = picture_model(tmp_path / "m.onnx", said=metadata(study, scaling=found))
    assert opened([path])["m"].scaling == Scaling((70.0, 50.0), (3.0, 2.0))


def test_what_cannot_be_served_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such file"):
        opened([tmp_path / "none.onnx"])
    (tmp_path / "again").mkdir()
    twice = [row_model(tmp_path / "rows.onnx"), row_model(tmp_path / "again" / "rows.onnx")]
    with pytest.raises(OptionError, match="a second model called rows"):
        opened(twice)
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be opened"):
        opened([tmp_path / "text.onnx"])


def without(said: str, key: str) -> str:
    """The same without a key."""
    return json.dumps({name: value for name, value in json.loads(said).items() if name != key})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, "no JSON"),
        ("[]", "give a file that fedward export wrote"),
        ("{", "no JSON"),
        (metadata(ROWS, digest="0" * 64), "another study than its digest"),
        (metadata(ROWS, threshold="half"), "threshold"),
        (without(metadata(ROWS), "threshold"), "threshold"),
        (metadata(ROWS, study={}), "does not hold here"),
        (metadata(ROWS, scaling={"age": {"center": 1.0, "scale": 2.0}}), "constants of age"),
        (metadata(ROWS, more=1), "an unknown key"),
    ],
)
def test_metadata_that_are_none(tmp_path: Path, said: str | None, words: str) -> None:
    with pytest.raises(FedwardError, match=words):
        opened([picture_model(tmp_path / "m.onnx", said=said)])


def eight_bits(path: Path) -> Path:
    """A linear layer over a row whose ranges are found for each call."""
    random = np.random.default_rng(0)
    made = linear_model(ROWS, path, random.normal(size=(3, 2)).astype(np.float32))
    content = quantized(made.read_bytes(), torch.zeros(0))
    path.write_bytes(with_provenance(content, metadata(ROWS)))
    return path


def test_with_8_bits_a_patient_s_answer_is_the_same_whoever_else_asks(tmp_path: Path) -> None:
    path = eight_bits(tmp_path / "m.onnx")
    model = opened([path])["m"]
    one = np.array([[0.3, 1.0, -0.7]], np.float32)
    both = np.concatenate([one, 100 * one])
    assert model.alone
    assert not np.array_equal(model.run(both)[0][:1], model.run(one)[0])  # why it must be alone

    async def ask() -> list[NDArray[np.float32]]:
        answering = Answering({"m": model}, Gauges(), Pace(delay=0.1))
        together = await asyncio.gather(*(answering.answer(model, each) for each in (one, both)))
        (alone,) = await answering.answer(model, one)
        await answering.close()
        return [alone, together[0][0], together[1][0][:1]]

    alone, beside_others, in_a_table = asyncio.run(ask())
    assert np.array_equal(alone, beside_others)
    assert np.array_equal(alone, in_a_table)
    tried = OnnxModel(path.read_bytes(), "m.onnx")
    assert np.array_equal(tried(torch.from_numpy(both))[:1].numpy(), alone)


def test_without_8_bits_records_are_computed_together(tmp_path: Path) -> None:
    assert not opened([row_model(tmp_path / "m.onnx")])["m"].alone
