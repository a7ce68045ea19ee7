"""Every family exports, and what comes out does the same for any batch, and any length."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from fedward.clinic.export import Format, Wanted, export
from fedward.clinic.finished import Finished, read_finished
from fedward.clinic.network import network_of
from fedward.clinic.onnx_file import OnnxModel
from fedward.clinic.real_records import RealRecords
from fedward.models.pretrained import digest_of
from fedward.models.registry import FAMILIES
from tests.clinic.made_run import write_run
from tests.models.small_families import CASES as SMALL
from tests.models.small_families import Case, StudyWith, images, toy, values_of
from tests.models.tiny_bert import PLACES, write_encoder

NOBODY = RealRecords(())
# Of 16 x 16 pixels one is left, which is normalised among four numbers: single precision's last
# bits become large, in PyTorch too.
CASES = SMALL | {"resnet34": SMALL["resnet34"]._replace(data=images(2, 64, 64))}
ANY_LENGTH = {"rnn", "lstm", "gru", "temporal_cnn", "bag_of_tokens"}
UP_TO_THE_STUDY_S = {"transformer"}
PRETRAINED = {"huggingface"}


@pytest.fixture(scope="module", autouse=True)
def _monai_s_own_warnings() -> None:
    """MONAI warns of things of its own when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("monai")


def run_of(case: Case, study_with: StudyWith, folder: Path) -> Finished:
    return read_finished(write_run(folder / "run", study_with(values_of(case))))


def exported(run: Finished, to: Format, folder: Path) -> nn.Module:
    """The file that was written, as a network."""
    out = folder / f"model.{to}"
    export(run, Wanted(to), out, NOBODY)
    if to == "onnx":
        return OnnxModel(out.read_bytes(), str(out))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read: nn.Module = torch.jit.load(out)
    return read


@torch.no_grad()
def assert_same(run: Finished, written: nn.Module) -> None:
    """For one record and five of them, and for others than the study's length."""
    network = network_of(run.model, run.study)
    places = run.study.task.kind == "generation"
    five = toy(run.study, 5).whole
    ways = [five[:1], five]
    if network.free_length and not places:
        ways += [five[..., :3], five[:1, ..., :1], five[:2, ..., :5]]
    if network.free_length and network.longest is None:
        ways.append(torch.cat([five, five, five], dim=-1))
    for records in ways:
        arguments = network.arguments(records)
        torch.testing.assert_close(
            written(*arguments), network.module(*arguments), atol=1e-4, rtol=1e-4
        )


def test_every_family_is_tried() -> None:
    assert {case.model["name"] for case in CASES.values()} | PRETRAINED == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_onnx_does_the_same(name: str, study_with: StudyWith, tmp_path: Path) -> None:
    run = run_of(CASES[name], study_with, tmp_path)
    written = exported(run, "onnx", tmp_path)
    assert isinstance(written, OnnxModel)
    assert_same(run, written)
    family, fixed = run.study.model.name, CASES[name].model.get("pooling") == "places"
    assert written.shapes[0][0] == "batch"
    free = family in ANY_LENGTH | UP_TO_THE_STUDY_S and not fixed
    assert (written.shapes[0][-1] == "length") is free


@pytest.mark.parametrize("name", CASES)
def test_torchscript_does_the_same(name: str, study_with: StudyWith, tmp_path: Path) -> None:
    run = run_of(CASES[name], study_with, tmp_path)
    assert_same(run, exported(run, "torchscript", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("body", ["frozen", "lora"])
def test_a_pretrained_encoder_exports_whole(
    body: str, study_with: StudyWith, tmp_path: Path
) -> None:
    encoder = write_encoder(tmp_path / "models" / "bert")
    model = {"name": "huggingface", "pretrained": digest_of(encoder), "body": body}
    data = {"kind": "text", "length": PLACES - 4, "tokenizer": "model"}
    study = study_with({"model": model, "data": data})
    models = tmp_path / "models"
    run = read_finished(write_run(tmp_path / "run", study, models=models), models=models)
    out = tmp_path / "model.onnx"
    export(run, Wanted("onnx"), out, NOBODY)
    written = OnnxModel(out.read_bytes(), str(out))
    pieces = torch.randint(1, 14, (5, PLACES - 4), generator=torch.Generator().manual_seed(0))
    for records in (pieces[:1], pieces, pieces[:2, :7]):
        with torch.no_grad():
            torch.testing.assert_close(written(records), run.model(records), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_file_tells_nothing_of_the_machine(study_with: StudyWith, tmp_path: Path) -> None:
    run = run_of(CASES["gru, both ways"], study_with, tmp_path)
    exported(run, "onnx", tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    assert str(Path.home()).encode() + b"/" not in content
    assert b"site-packages" not in content
    assert b".py" not in content
    assert str(tmp_path).encode() not in content
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
