"""From a run to an alarm: real commands, a real service, pictures as in training and others."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tomli_w
import tritonclient.grpc as triton
from PIL import Image
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    roc_auc_score,
)
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.clinic.watching.reference import Reference, read_reference
from fedward.study.errors import FedwardError
from fedward.study.study import parse_study
from tests.clinic.serving.conftest import Service, serving
from tests.simulation.conftest import study_of

pytestmark = pytest.mark.slow

FEDWARD = str(Path(sys.executable).with_name("fedward"))
SIDE = 10
CLASSES = ("benign", "malignant")


def pixels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark pictures; half of them have a spot, bright or hardly. Bytes, and classes."""
    random = np.random.default_rng(seed)
    ground = random.integers(5, 70, (count, 1, 1))
    found = ground + random.integers(0, 1 + ground // 2, (count, SIDE, SIDE))
    labels = np.arange(count) % 2
    found[labels == 1, 3:6, 3:6] += random.integers(10, 90, (count // 2, 1, 1))
    return found.astype(np.uint8), labels


def run_command(*words: object) -> str:
    """In this process: it has imported everything."""
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(done.exception, FedwardError), done.output
    return done.exception.line()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, the table of its study, the exported model and its reference."""
    folder = tmp_path_factory.mktemp("trained")
    many, labels = pixels(240, 1)
    for number, (picture, label) in enumerate(zip(many, labels, strict=True)):
        place = folder / "pictures" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")
    values = study_of().model_dump(mode="json", exclude_none=True)
    values["data"] = {
        **{"kind": "images", "shape": [1, SIDE, SIDE], "statistics": {"bins": 20, "fewest": 10}},
        "parts": {"by": "hash", "train": 0.5, "validation": 0.25, "test": 0.25},
    }
    values["model"] = {"name": "linear"}
    values["training"] |= {"rounds": 3, "local_epochs": 4}
    parse_study(values)
    (folder / "study.toml").write_bytes(tomli_w.dumps(values).encode())
    data = ["--data", folder / "pictures"]
    run_command("stats", folder / "study.toml", *data, "--out", folder / "table.json")
    run_command(
        *("simulate", folder / "study.toml", *data, "--out", folder / "run", "--no-baselines")
    )
    run_command("export", folder / "run", "--to", "onnx", "--out", folder / "chest.onnx")
    said = run_command(
        *("reference", folder / "run", "--statistics", folder / "table.json"),
        *("--out", folder / "chest.reference.json"),
    )
    assert "Reference of 5 histograms" in said
    return folder


def asked(service: Service, found: np.ndarray, name: str = "", **headers: str) -> Any:  # noqa: ANN401
    seen = (found[:, None] / 255 - 0.5) / 0.5
    one = {
        **{"name": "inputs", "shape": list(seen.shape), "datatype": "FP32"},
        "data": seen.ravel().tolist(),
    }
    given = {"inputs": [one]} | ({"id": name} if name else {})
    reply = httpx.post(f"{service.url}/v2/models/chest/infer", json=given, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def metrics_of(service: Service, wanted: str, want: str = "1.0") -> list[str]:
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith(wanted) and line.endswith(f" {want}")]


def test_the_reference_is_of_sums_without_small_cells(trained: Path) -> None:
    found = read_reference(trained / "chest.reference.json")
    table = json.loads((trained / "table.json").read_text())

    assert {(h.kind, h.name) for h in found.histograms} == {
        *(("number", name) for name in ("mean", "deviation", "low", "high")),
        ("score", "malignant"),
    }
    for each in found.histograms:
        assert all(cell is None or cell == 0 or cell >= 10 for cell in each.cells)
        assert each.known
        if each.kind == "number":
            whole = sum(cell or 0 for cell in each.cells) + each.hidden
            assert whole == table["patients"] > 90
    assert found.judged["auc"] > 0.7


def test_a_table_of_another_study_is_no_reference(trained: Path, tmp_path: Path) -> None:
    other = json.loads((trained / "table.json").read_text()) | {"study": "0" * 64}
    (tmp_path / "table.json").write_text(json.dumps(other))
    said = refused(
        *("reference", trained / "run", "--out", tmp_path / "r.json"),
        *("--statistics", tmp_path / "table.json"),
    )

    assert "another study's" in said
    assert not (tmp_path / "r.json").exists()


def test_pictures_as_in_training_raise_no_alarm_and_brighter_ones_do(
    trained: Path, tmp_path: Path
) -> None:
    state, log = tmp_path / "watched", tmp_path / "log"
    options = ("--watch-state", str(state), "--watch-window", "200")
    with serving([trained / "chest.onnx"], log, *options) as service:
        many, _ = pixels(200, 2)
        for part in np.split(many, 20):
            asked(service, part, "patient-4711")
        assert service.stop() == 0
    told = run_command("monitor", state)
    assert "0 alarms" in told, told
    assert "malignant" in told

    with serving([trained / "chest.onnx"], log, *options) as service:
        assert metrics_of(service, "fedward_watch_records", "200.0"), "a restart keeps the counts"
        assert not metrics_of(service, "fedward_watch_alarm")
        for part in np.split(np.clip(many.astype(int) + 70, 0, 255).astype(np.uint8), 20):
            asked(service, part)
        for part in np.split(255 - many, 20):
            asked(service, part)
        assert service.stop() == 0
        assert "4711" not in service.log()
        assert "is not what it was trained on" in service.log()
    told = run_command("monitor", state, "--out", tmp_path / "told.json")
    assert "ALARM" in told
    drift = {
        d["name"]: d for d in json.loads((tmp_path / "told.json").read_text())["chest"]["drift"]
    }
    assert drift["mean"]["alarm"]
    assert drift["mean"]["psi"] > 1
    for path in state.iterdir():
        assert b"4711" not in path.read_bytes(), path


def test_labels_that_come_later_give_the_metrics_of_scikit_learn(
    trained: Path, tmp_path: Path
) -> None:
    state, log = tmp_path / "watched", tmp_path / "log"
    many, labels = pixels(120, 3)
    ids: list[str] = []
    outputs: list[list[float]] = []
    options = ("--watch-state", str(state), "--keep-scores", "1000")
    with serving([trained / "chest.onnx"], log, *options) as service:
        for number, picture in enumerate(many[:60]):
            reply = asked(service, picture[None], f"case {number}" if number % 2 else "")
            ids.append(reply["id"])
            outputs.append(reply["outputs"][0]["data"])
        reply = asked(service, many[60:80], "batch")
        ids += [f"batch/{number}" for number in range(20)]
        outputs += np.reshape(reply["outputs"][0]["data"], (20, 2)).tolist()
        client = triton.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")
        for picture in many[80:100]:
            given = triton.InferInput("inputs", [1, 1, SIDE, SIDE], "FP32")
            given.set_data_from_numpy(((picture[None, None] / 255 - 0.5) / 0.5).astype(np.float32))
            answer = client.infer("chest", [given])
            ids.append(answer.get_response().id)
            outputs.append(answer.as_numpy("outputs")[0].tolist())
        client.close()
        shares = []
        for picture in many[100:]:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, format="PNG")
            said = httpx.post(
                f"{service.url}/predict", files={"files": ("a.png", file.getvalue())}, timeout=60
            ).json()
            ids.append(said["id"])
            shares.append(said["records"][0]["values"]["malignant"])
        assert len(set(ids)) == 120
        assert service.stop() == 0
        assert not any(name in service.log() for name in ids)

    score = np.concatenate([1 / (1 + np.exp(-np.diff(np.array(outputs))[:, 0])), shares])
    with (tmp_path / "labels.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["id", "label", "note"])
        table.writerows(
            (name, CLASSES[label], "x") for name, label in zip(ids, labels, strict=True)
        )
        table.writerow(["nobody knows this one", "benign", ""])
    told = run_command(
        *("monitor", state, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "told.json")
    )
    found = json.loads((tmp_path / "told.json").read_text())["chest"]["labelled"]

    assert "Labels of 120 records" in told
    assert found["records"] == 120
    threshold = json.loads((trained / "run" / "result.json").read_text())["metrics"]["federated"][
        "threshold"
    ]
    assert found["metrics"] == {
        **found["metrics"],
        "auc": round(roc_auc_score(labels, score), 2),
        "average_precision": round(average_precision_score(labels, score), 2),
        "accuracy": round(accuracy_score(labels, score >= threshold), 2),
        "brier": pytest.approx(brier_score_loss(labels, score), abs=0.005 + 1e-6),
    }
    with serving([trained / "chest.onnx"], log, *options) as service:
        auc = f'fedward_watch_metric{{metric="auc",model="chest"}} {found["metrics"]["auc"]}'
        assert auc in httpx.get(f"{service.url}/metrics").text
    few = (tmp_path / "labels.csv").read_text().splitlines()[:9]
    (tmp_path / "few.csv").write_text("\n".join(few) + "\n")
    told = run_command("monitor", state, "--labels", tmp_path / "few.csv")
    assert "Labels of 120 records" in told, "few labels more or less move nothing"


def test_a_reference_is_found_beside_its_model_or_refused(trained: Path, tmp_path: Path) -> None:
    other: Reference = read_reference(trained / "chest.reference.json")
    wrong = tmp_path / "wrong.json"
    wrong.write_bytes(other.model_copy(update={"study": "0" * 64}).document())
    said = refused("serve", trained / "chest.onnx", "--watch", wrong)

    assert "is the reference of no model here" in said
    assert "--keep-scores without a watched model" in refused(
        *("serve", shutil.copy(trained / "chest.onnx", tmp_path)),
        *("--keep-scores", 10),
    )


def test_the_reference_of_another_seed_s_run_is_refused(trained: Path, tmp_path: Path) -> None:
    data = ("--data", trained / "pictures")
    run_command(
        *("simulate", trained / "study.toml", *data, "--seed", 7),
        *("--out", tmp_path / "run", "--no-baselines"),
    )
    run_command("reference", tmp_path / "run", "--out", tmp_path / "other.json")
    other = read_reference(tmp_path / "other.json")
    assert other.study == read_reference(trained / "chest.reference.json").study
    said = refused("serve", trained / "chest.onnx", "--watch", tmp_path / "other.json")
    assert "is the reference of no model here" in said
    shutil.copy(trained / "chest.onnx", tmp_path)
    shutil.copy(tmp_path / "other.json", tmp_path / "chest.reference.json")
    assert "another run's model" in refused("serve", tmp_path / "chest.onnx")


def test_the_command_that_people_type(trained: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [FEDWARD, "monitor", str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "no model is watched there" in done.stderr
