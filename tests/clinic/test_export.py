"""What is exported says where it is from, is tried on real records, and is whole or not there."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedward.clinic import export as exporting
from fedward.clinic.export import Wanted, export
from fedward.clinic.finished import read_finished
from fedward.clinic.onnx_file import OnnxModel
from fedward.clinic.provenance import KEY, parse_provenance, provenance_of
from fedward.clinic.pruning import pruned
from fedward.clinic.real_records import RealRecords, read_real_records
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import DataError, ExportError, OptionError, StudyError
from fedward.study.study import parse_study, read_study
from tests.clinic.private_run import private_run
from tests.simulation.conftest import study_of, write_images

NOBODY = RealRecords(())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private study of a table, with measured constants."""
    return private_run(tmp_path_factory.mktemp("run"), model={"hidden": [16]})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of small pictures with convolutions."""
    folder = tmp_path_factory.mktemp("pictures")
    table = study_of().model_dump(mode="json", exclude_none=True)
    study = parse_study(
        table
        | {
            "model": {"name": "small_cnn", "channels": [4, 8]},
            "data": {"kind": "images", "shape": [1, 8, 8], "parts": table["data"]["parts"]},
        }
    )
    data = write_images(folder / "files", 60)
    options = Options(out=folder / "run", data=data, seed=4, workers=1, baselines=False)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    return folder / "run"


@pytest.mark.slow
def test_the_file_says_where_it_is_from(run: Path, tmp_path: Path) -> None:
    finished = read_finished(run)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    said: list[str] = []
    for to in ("onnx", "safetensors", "torchscript"):
        export(finished, Wanted(to), tmp_path / to, NOBODY)
    said.append(OnnxModel((tmp_path / "onnx").read_bytes(), "onnx").said)
    with safe_open(tmp_path / "safetensors", framework="pt") as file:
        said.append(file.metadata()[KEY])
    files = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(tmp_path / "torchscript", _extra_files=files)
    text: Any = files[KEY]
    said.append(text.decode() if isinstance(text, bytes) else text)
    assert len(set(said)) == 1
    found = parse_provenance(said[0], "the file")
    assert found.contract("the file").digest() == finished.study.digest() == found.digest
    assert found.epsilon == max(each["epsilon"] for each in result["privacy"].values()) > 0
    assert found.threshold == finished.facts.threshold
    assert found.classes == ("benign", "malignant")
    assert found.scaling is not None
    assert found.scaling["number"].center == result["scaling"]["number"]["center"]
    assert set(json.loads(said[0])) >= {"study", "digest", "threshold", "epsilon", "version"}
    assert (found.epsilon_planned, found.tried) == (None, "random")


@pytest.mark.slow
def test_onnx_gives_a_real_patient_what_pytorch_gives(run: Path, tmp_path: Path) -> None:
    finished = read_finished(run)
    records = read_real_records(finished, None)
    done = export(finished, Wanted("onnx"), tmp_path / "m.onnx", records)
    assert done.real
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert done.records == sum(each["test"] for each in result["hospitals"].values())
    model = OnnxModel((tmp_path / "m.onnx").read_bytes(), "m.onnx")
    assert "tried" not in json.loads(model.said)
    # As the run judged it: the inputs are scaled with the constants that it measured.
    judged, known = records.metrics(model, finished), result["metrics"]["federated"]
    assert judged["auc"] == known["auc"]
    assert judged["accuracy"] == known["accuracy"]
    one = sorted((run / "hospitals").glob("*/hospital.toml"))[0]
    assert len(read_real_records(finished, one).hospitals) == 1


def test_what_differs_is_refused_and_nothing_is_left(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = read_finished(run)

    class Off(nn.Module):
        """Gives what PyTorch gives, and a little more for a record by itself."""

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = finished.model(inputs)
            return outputs + (2e-4 if len(inputs) == 1 else 0.0)

    with monkeypatch.context() as changed:
        changed.setattr(exporting, "_safetensors", lambda *_: (b"weights", Off()))
        with pytest.raises(ExportError, match="differs by 2"):
            export(finished, Wanted("safetensors"), tmp_path / "m", NOBODY)
    assert ExportError("x").exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_refused(run: Path, tmp_path: Path) -> None:
    finished = read_finished(run)
    there = tmp_path / "there"
    there.write_text("mine", encoding="utf-8")
    for out, says in ((there, "is there already"), (tmp_path / "no" / "m", "folder is not there")):
        with pytest.raises(OptionError, match=says):
            export(finished, Wanted("safetensors"), out, NOBODY)
    assert there.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted("torchscript", quantize="int8"), "quantize ONNX only"),
        (Wanted("onnx", prune=1.0), "below 1"),
        (Wanted("onnx", prune=float("nan")), "below 1"),
        (Wanted("onnx", quantize="int8"), "no training and test records"),
        (Wanted("safetensors", prune=0.5), "no training and test records"),
    ],
)
def test_what_cannot_be_done_is_refused(
    wanted: Wanted, says: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=says):
        export(read_finished(run), wanted, tmp_path / "m", NOBODY)


def test_an_unknown_family_is_named(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    path = copied / "study.toml"
    study = path.read_text(encoding="utf-8")
    path.write_text(study.replace('"mlp"', '"mlq"'), encoding="utf-8")
    facts = json.dumps(json.loads(_facts(copied)) | {"digest": read_study(path).digest()})
    save_file(
        load_file(copied / "model.safetensors"),
        copied / "model.safetensors",
        metadata={KEY: facts},
    )
    with pytest.raises(StudyError, match="did you mean mlp"):
        read_finished(copied)


def _facts(folder: Path) -> str:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return str(file.metadata()[KEY])


def test_a_result_that_is_damaged_is_named(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    for text in ("[]", '{"privacy": {"a": {"epsilon": NaN}}}', "[" * 100_000):
        (copied / "result.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"result\.json"):
            export(read_finished(copied), Wanted("safetensors"), tmp_path / "m", NOBODY)


def test_an_aggregator_s_model_says_what_the_plan_cost(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    result = json.loads((copied / "result.json").read_text(encoding="utf-8"))
    (copied / "result.json").unlink()
    said = provenance_of(read_finished(copied))
    spent = max(each["epsilon"] for each in result["privacy"].values())
    assert said.epsilon is None
    assert said.epsilon_planned == pytest.approx(spent)  # the ledgers of a run without failures


@pytest.mark.parametrize("text", ["", "[]", "{", '{"digest": 3}', "[" * 100_000])
def test_metadata_of_others_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="fedward export"):
        parse_provenance(text, "strange.onnx")


def test_half_of_the_weights_become_nothing_and_the_largest_stay(run: Path) -> None:
    finished = read_finished(run)
    smaller = pruned(finished.model, 0.5)
    before = {n: w for n, w in finished.model.named_parameters() if n.endswith("weight")}
    after = dict(smaller.named_parameters())
    assert set(after) == {name for name, _ in finished.model.named_parameters()}
    old = torch.cat([w.flatten() for w in before.values()])
    new = torch.cat([after[n].flatten() for n in before])
    gone = new == 0
    assert gone.sum() == round(0.5 * len(new))
    assert old[gone].abs().max() <= old[~gone].abs().min()
    assert torch.equal(new[~gone], old[~gone])


def test_recurrent_weights_are_pruned_where_they_are_used() -> None:
    torch.manual_seed(0)
    layer = nn.GRU(3, 5, batch_first=True)
    smaller = pruned(nn.Sequential(layer), 0.9)[0]  # type: ignore[index]
    inputs = torch.randn(2, 4, 3)
    by_hand = nn.GRU(3, 5, batch_first=True)
    by_hand.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(smaller(inputs)[0], by_hand(inputs)[0])
    assert not torch.allclose(smaller(inputs)[0], layer(inputs)[0])


@pytest.mark.slow
def test_pruning_and_8_bits_say_what_was_lost(run: Path, pictures: Path, tmp_path: Path) -> None:
    for number, folder in enumerate((run, pictures)):
        finished = read_finished(folder)
        records = read_real_records(finished, None)
        for wanted in (Wanted("onnx", quantize="int8"), Wanted("onnx", prune=0.9)):
            out = tmp_path / f"{number}{wanted.quantize}.onnx"
            done = export(finished, wanted, out, records)
            model = OnnxModel(out.read_bytes(), str(out))
            assert done.before == records.metrics(finished.model, finished)
            again = records.metrics(model, finished)
            assert done.after == {k: pytest.approx(v, abs=1e-6) for k, v in again.items()}
            assert done.after["loss"] != done.before["loss"]
            said = parse_provenance(model.said, str(out))
            assert (said.quantized, said.pruned) == (wanted.quantize, wanted.prune)
            kinds = {node.op_type for node in onnx.load_model(out).graph.node}
            assert bool(kinds & {"QuantizeLinear", "DynamicQuantizeLinear"}) is bool(
                wanted.quantize
            )


def test_no_onnx_model_is_refused() -> None:
    for content in (b"", b"\x08\x01", b"PK\x03\x04"):
        with pytest.raises(DataError, match="is no ONNX model"):
            OnnxModel(content, "strange")
