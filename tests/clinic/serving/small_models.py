"""Small exported models: graphs with fixed weights, and the metadata that an export writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fedward.clinic.provenance import KEY, Provenance
from fedward.study.study import Study, parse_study
from fedward.study.version import VERSION

PIXELS = 12


def study_of(data: dict[str, Any], task: dict[str, Any] | None = None) -> Study:
    return parse_study(
        {
            "study": {"name": "small", "title": "A small <b>study</b>"},
            "task": task or {"kind": "binary", "classes": ["healthy", "ill"]},
            "model": {"name": "any"},
            "data": data,
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


PICTURES = study_of({"kind": "images", "shape": [1, PIXELS, PIXELS]})
ROWS = study_of(
    {
        "kind": "table",
        "label": "diagnosis",
        "features": {
            "age": {"center": 55.0, "scale": 10.0},
            "sex": {"categories": ["f", "m"]},
        },
    }
)
SIGNALS = study_of(
    {"kind": "signals", "channels": ["b"], "rate": 50, "length": 20, "center": [0.1]}
)
VOLUMES = study_of({"kind": "images", "shape": [1, 8, 8, 8]})
WORDS = study_of(
    {"kind": "sequence", "sequence": "dna", "alphabet": ["A", "C", "G", "T"], "length": 6}
)


def metadata(study: Study, /, **changes: object) -> str:
    """What an export says, with something else in it."""
    said = Provenance(
        study=study.model_dump(mode="json", exclude={"simulation"}, exclude_none=True),
        digest=study.digest(),
        threshold=0.5,
        classes=study.task.classes,
        version=VERSION,
    )
    return json.dumps({**json.loads(said.document()), **changes})


def saved(nodes: list[Any], weights: dict[str, Any], study: Study, path: Path, **how: Any) -> Path:  # noqa: ANN401
    """Save a graph from `inputs` to `outputs`, whose batch is free."""
    kind = how.get("kind", TensorProto.FLOAT)
    shape = how.get("shape", ("batch", *study.data.input_shape))
    given = helper.make_tensor_value_info("inputs", kind, shape)
    answer = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ("batch", 2))
    constants = [numpy_helper.from_array(np.array(v), name) for name, v in weights.items()]
    graph = helper.make_graph(nodes, "small", [given], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    said = how.get("said", metadata(study))
    if said is not None:
        helper.set_model_props(model, {KEY: said})
    path.write_bytes(model.SerializeToString())
    return path


def picture_weights() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(1)
    flat = 4 * (PIXELS - 2) ** 2
    return {
        "kernel": random.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "matrix": (random.normal(size=(flat, 2)) / 10).astype(np.float32),
        "bias": np.array([0.3, -0.2], np.float32),
    }


def picture_model(path: Path, **how: Any) -> Path:  # noqa: ANN401
    """A convolution and a linear layer."""
    nodes = [
        helper.make_node("Conv", ["inputs", "kernel"], ["mapped"]),
        helper.make_node("Relu", ["mapped"], ["bent"]),
        helper.make_node("Flatten", ["bent"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["outputs"]),
    ]
    return saved(nodes, picture_weights(), PICTURES, path, **how)


def expected(pictures: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the picture model must say, computed without onnxruntime."""
    weights = {name: value.astype(np.float64) for name, value in picture_weights().items()}
    windows = np.lib.stride_tricks.sliding_window_view(pictures[:, 0], (3, 3), axis=(1, 2))
    mapped = np.einsum("nijkl,ckl->ncij", windows, weights["kernel"][:, 0])
    flat = np.maximum(mapped, 0).reshape(len(pictures), -1)
    answer: NDArray[np.float64] = flat @ weights["matrix"] + weights["bias"]
    return answer


def linear_model(study: Study, path: Path, matrix: NDArray[np.float32]) -> Path:
    """One linear layer over a record's numbers."""
    nodes = [
        helper.make_node("Flatten", ["inputs"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["outputs"]),
    ]
    return saved(nodes, {"matrix": matrix}, study, path)


def row_model(path: Path) -> Path:
    """Only age speaks: for every scale above the center, 2 for `ill`."""
    return linear_model(ROWS, path, np.array([[0, 2], [0, 0], [0, 0]], np.float32))


def word_model(path: Path) -> Path:
    """The sum of each token's own two numbers, of which 6 are known."""
    nodes = [
        helper.make_node("Gather", ["table", "inputs"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axes"], ["outputs"], keepdims=0),
    ]
    weights: dict[str, Any] = {
        "table": np.arange(12, dtype=np.float32).reshape(6, 2),
        "axes": np.array([1], np.int64),
    }
    return saved(nodes, weights, WORDS, path, kind=TensorProto.INT64, shape=("batch", "length"))
