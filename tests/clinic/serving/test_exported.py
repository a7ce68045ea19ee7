"""What `fedward export` writes is what `fedward serve` opens, and it says what PyTorch says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from torch import nn

from fedward.clinic.answers import answers
from fedward.clinic.finished import Finished, read_finished
from fedward.clinic.onnx_file import OnnxModel
from fedward.clinic.pruning import pruned
from fedward.clinic.unlabelled import read_unlabelled
from fedward.simulation.simulate import Options, simulate
from tests.clinic.serving.conftest import serving
from tests.simulation.conftest import COUNT, study_of, write_table

FEDWARD = str(Path(sys.executable).with_name("fedward"))
WAYS: dict[str, list[str]] = {
    "plain": [],
    "pruned": ["--prune", "0.5"],
    "int8": ["--quantize", "int8"],
}
ROWS = "number,age,size\n3,0.5,1.5\n41,-1,2\n59,1.25,-0.5\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a table whose constants were measured, with a threshold of its own."""
    folder = tmp_path_factory.mktemp("run")
    features = {"number": {"bounds": [0, 60]}, "age": {}, "size": {}}
    study = study_of(
        task={"threshold": 0.3},
        model={"hidden": [16]},
        data={"features": features, "scaling": "measured"},
        simulation={"split": "iid", "source": {"patient": "patient"}},
    )
    data = write_table(folder / "records.csv", range(COUNT))
    options = Options(out=folder / "run", data=data, seed=4, workers=1, baselines=False)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    return folder / "run"


def said_by(network: nn.Module, run: Finished, rows: str) -> np.ndarray[tuple[int, ...], np.dtype]:
    """Probabilities of the finding for the rows of a CSV file."""
    read = read_unlabelled({"rows.csv": rows.encode()}, run.study, run.scaling)
    found = answers(
        network(read.inputs), read.inputs, run.study.task, threshold=run.facts.threshold
    )
    return np.array([answer.values["malignant"] for answer in found])


@pytest.mark.slow
def test_every_export_of_a_table_is_served(run: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.onnx" for name in WAYS}
    for name, options in WAYS.items():
        words = [FEDWARD, "export", str(run), "--to", "onnx", "--out", str(files[name]), *options]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    finished = read_finished(run)
    networks = {
        "plain": finished.model,
        "pruned": pruned(finished.model, 0.5),
        "int8": OnnxModel(files["int8"].read_bytes(), "int8"),
    }
    with (
        serving(list(files.values()), tmp_path / "log") as service,
        httpx.Client(base_url=service.url, timeout=60) as web,
    ):

        def predicted(name: str, rows: str) -> np.ndarray[tuple[int, ...], np.dtype]:
            answer = web.post(
                "/predict", files={"files": ("rows.csv", rows)}, data={"model": name}
            ).json()
            assert answer["digest"] == finished.facts.digest
            shares = np.array([record["values"]["malignant"] for record in answer["records"]])
            called = [record["called"] for record in answer["records"]]
            assert called == [["malignant"] if share >= 0.3 else ["benign"] for share in shares]
            return shares

        found = {name: predicted(name, ROWS) for name in WAYS}
        for name, network in networks.items():
            assert found[name] == pytest.approx(said_by(network, finished, ROWS), abs=1e-5)
        assert found["pruned"] != pytest.approx(found["plain"], abs=1e-3)
        # 8 bits leave about 1 % of each layer's largest number.
        assert found["int8"] == pytest.approx(found["plain"], abs=0.03)
        head, first, *_ = ROWS.splitlines()
        large = ",".join(str(100 * float(value)) for value in first.split(","))
        alone = predicted("int8", f"{head}\n{first}\n")
        assert predicted("int8", f"{head}\n{first}\n{large}\n")[0] == alone[0]
