"""An exported model, opened to answer: the ONNX graph and what its metadata say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fedward.clinic.finished import scaling_of
from fedward.clinic.onnx_file import looks_at_batch
from fedward.clinic.provenance import KEY, parse_provenance
from fedward.clinic.serving.refusal import Refusal
from fedward.study.errors import DataError, OptionError
from fedward.study.scaling import Scaling
from fedward.study.study import Study

_DTYPES: dict[str, tuple[str, type[np.generic]]] = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(bool)": ("BOOL", np.bool_),
}


class TensorFacts(NamedTuple):
    """A tensor that goes in or comes out.

    Attributes:
        name: In the graph.
        datatype: In the protocol's words, such as `FP32`.
        dtype: The same for numpy.
        shape: With -1 where the length is free.
    """

    name: str
    datatype: str
    dtype: type[np.generic]
    shape: tuple[int, ...]


class ServedModel:
    """A model that answers.

    Args:
        path: The ONNX file. Its weights must be inside: no other file is opened.
        threads: Threads of one computation.

    Attributes:
        said: What the file says of itself.
        study: Of which it is.
        scaling: The measured constants in the study's order; None if it has them all itself.
        alone: Whether a record must be computed by itself, for its answer to be its own.
        input: What it takes.
        outputs: What it gives.

    Raises:
        OptionError: There is no such file.
        DataError: It is damaged, `fedward export` did not write it, or its study does not hold
            with this version of Fedward.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self.name = path.stem
        self.version = "1"
        content = _content(path)
        self._session = _session(content, path, threads)
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY, "")
        self.said = parse_provenance(text, str(path))
        self.study: Study = self.said.contract(str(path))
        self.scaling: Scaling | None = scaling_of(self.study, self.said.scaling, str(path))
        self.alone = looks_at_batch(content)
        inputs = [_facts(found, path) for found in self._session.get_inputs()]
        if len(inputs) != 1 or not inputs[0].shape:
            raise DataError("takes no batch of one tensor", todo="export it again", where=str(path))
        self.input = inputs[0]
        self.outputs = tuple(_facts(found, path) for found in self._session.get_outputs())

    def check(self, inputs: NDArray[Any]) -> None:
        """Whether the model takes such a tensor.

        Raises:
            Refusal: Its type, shape or a number in it is not what the model takes.
        """
        wanted = self.input
        if inputs.dtype != wanted.dtype:
            raise Refusal(400, f"the input must be of datatype {wanted.datatype}")
        fits = inputs.ndim == len(wanted.shape) and all(
            free == -1 or free == given
            for free, given in zip(wanted.shape, inputs.shape, strict=True)
        )
        if not fits or 0 in inputs.shape:
            shown = ", ".join("any" if size == -1 else str(size) for size in wanted.shape)
            raise Refusal(400, f"the input must have the shape ({shown}), and none of it empty")
        if not np.isfinite(inputs).all():
            raise Refusal(400, "the input holds NaN or infinity", todo="send finite numbers")

    def run(self, inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """What the model says of a batch, each output with the batch first.

        Raises:
            Refusal: The graph cannot compute it, as of a token that it does not know.
        """
        try:
            found: Sequence[NDArray[Any]] = self._session.run(None, {self.input.name: inputs})
        except Exception as error:  # onnxruntime has no one root; its words may quote values
            raise Refusal(
                400, f"the model cannot compute this input ({type(error).__name__})"
            ) from None
        return found


def opened(paths: Sequence[Path], *, threads: int = 1) -> dict[str, ServedModel]:
    """Models by the names that requests have for them: their files' names without the ending.

    Raises:
        OptionError: Two have one name.
        DataError: One cannot be opened.
    """
    models: dict[str, ServedModel] = {}
    for path in paths:
        if path.stem in models:
            raise OptionError(
                f"a second model called {path.stem}", todo="rename a file", where=str(path)
            )
        models[path.stem] = ServedModel(path, threads=threads)
    return models


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise OptionError("no such file", todo="give an exported .onnx", where=str(path))
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(
            f"cannot be read ({error.strerror})", todo="give an exported .onnx", where=str(path)
        ) from None


def _session(content: bytes, path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its warnings quote values
    try:  # from bytes: a graph that names other files as its weights finds none
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no one root
        raise DataError(
            f"cannot be opened as an ONNX model ({type(error).__name__})",
            todo="export it again",
            where=str(path),
        ) from None


def _facts(found: Any, path: Path) -> TensorFacts:  # noqa: ANN401 - onnxruntime's, without types
    if found.type not in _DTYPES:
        raise DataError(
            f"its tensor {found.name} is of {found.type}", todo="export it again", where=str(path)
        )
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in found.shape)
    return TensorFacts(found.name, *_DTYPES[found.type], shape)
