"""ONNX models with weights of 8 bits.

Convolutions are quantized with the range that their inputs have on training records (static);
without convolutions the ranges are found for each call (dynamic), as ONNX Runtime recommends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from fedward.clinic.onnx_file import need_onnx, quiet_exporters
from fedward.study.errors import ExportError

_BATCH = 16


def quantized(content: bytes, training: Tensor) -> bytes:
    """The same model with weights of 8 bits where ONNX Runtime has an operator for them.

    Args:
        content: An ONNX model with one input.
        training: Inputs of training records, to see ranges by, shape (n, *input_shape).

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        ExportError: It cannot be quantized.
    """
    onnx = need_onnx()
    with quiet_exporters():
        from onnxruntime import quantization

    model = onnx.load_model_from_string(content)
    convolves = any(node.op_type == "Conv" for node in model.graph.node)
    name = model.graph.input[0].name
    with tempfile.TemporaryDirectory(prefix="fedward-") as folder, quiet_exporters():
        given, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(content)
        try:
            if convolves:
                quantization.quantize_static(
                    str(given), str(made), _reader(name, training), per_channel=True
                )
            else:
                quantization.quantize_dynamic(str(given), str(made), per_channel=True)
        except Exception as error:  # ONNX Runtime's have no common root
            raise ExportError(
                f"cannot be quantized ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]})",
                todo="export it without --quantize",
            ) from None
        return made.read_bytes()


def _reader(name: str, training: Tensor) -> object:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc] # untyped
        """Training records in batches."""

        def __init__(self) -> None:
            self._batches = self._each()

        def _each(self) -> Iterator[dict[str, object]]:
            for batch in training.split(_BATCH):
                yield {name: batch.numpy()}

        def get_next(self) -> dict[str, object] | None:
            return next(self._batches, None)

    return Reader()
