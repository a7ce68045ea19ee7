"""A network as an ONNX file, and such a file as a network."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fedward.clinic.network import Network
from fedward.clinic.onnx_recurrent import with_onnx_recurrence
from fedward.clinic.provenance import KEY
from fedward.study.errors import DataError, ExportError, MissingExtra

OPSET = 20
_DYNAMIC = b"DynamicQuantize"
"""Begins the operators that take the range of their input anew for each call: `...Linear`, and
those of ONNX Runtime for layers (`...LSTM`, `...MatMul`)."""


def looks_at_batch(content: bytes) -> bool:
    """Whether a record's answer depends on who is beside it: ranges are those of a whole batch.

    Args:
        content: An ONNX model, in which the names of operators stand as they are.
    """
    return _DYNAMIC in content


def to_onnx(network: Network, records: Tensor) -> bytes:
    """The network as ONNX, with a free batch, and a free length where it takes others.

    Args:
        network: To export.
        records: Two or more, of the study's shape, to follow it with.

    Raises:
        MissingExtra: A package that exports is not installed.
        ExportError: PyTorch cannot say it in ONNX.
    """
    need_onnx()
    arguments = network.arguments(records[:2])
    sizes: list[dict[int, Any]] = [{0: torch.export.Dim("batch")} for _ in arguments]
    if network.free_length:
        sizes[0][records.ndim - 1] = torch.export.Dim("length", max=network.longest)
    try:
        with quiet_exporters():
            program = torch.onnx.export(
                with_onnx_recurrence(network.module),
                arguments,
                input_names=list(network.names),
                output_names=["outputs"],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=tuple(sizes),
                verbose=False,
            )
        if program is None:
            raise ExportError("PyTorch gave no ONNX model")
        return without_traces(program.model_proto)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"PyTorch cannot say this network in ONNX ({' '.join(str(error).split())[:200]})",
            todo="export it --to torchscript",
        ) from None


def without_traces(model: Any) -> bytes:  # noqa: ANN401 - a message of ONNX
    """The model without the exporter's notes, which tell of this machine's folders."""
    for function in model.functions:
        del function.metadata_props[:]
        _forget(function.node)
    del model.graph.value_info[:]  # shapes in between, some of which are wrong for ONNX's checker
    for entry in (*model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
    for entry in model.graph.initializer:
        del entry.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    _forget(model.graph.node)
    content: bytes = model.SerializeToString()
    return content


def _forget(nodes: Sequence[Any]) -> None:
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            _forget(attribute.g.node)


def with_provenance(content: bytes, document: str) -> bytes:
    """The same model, which says where it comes from.

    Args:
        content: An ONNX model.
        document: What `Provenance.document` gives.
    """
    onnx = need_onnx()
    model = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(model, {KEY: document})
    said: bytes = model.SerializeToString()
    return said


class OnnxModel(nn.Module):
    """An ONNX model that is called as a network, on the CPU, without gradients.

    Attributes:
        said: What it says of itself under Fedward's key; empty if nothing.
        alone: Whether each record is computed by itself, as when the model is served.
    """

    def __init__(self, content: bytes, where: str) -> None:
        """Load one.

        Args:
            content: Of the file.
            where: The file, for the error.

        Raises:
            MissingExtra: ONNX Runtime is not installed.
            DataError: It is no ONNX model, or one that ONNX Runtime cannot run.
        """
        super().__init__()
        runtime = _need("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions, too
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's have no common root
            raise DataError(
                f"is no ONNX model that can be run ({type(error).__name__})",
                todo="give a file that fedward export wrote",
                where=where,
            ) from None
        self.alone = looks_at_batch(content)
        self.said: str = self._session.get_modelmeta().custom_metadata_map.get(KEY, "")

    @property
    def shapes(self) -> list[list[int | str]]:
        """Of its inputs; what is free has a name."""
        return [list(each.shape) for each in self._session.get_inputs()]

    def forward(self, *arguments: Tensor) -> Tensor:
        """The first output, for arguments in the order of the inputs."""
        names = [each.name for each in self._session.get_inputs()]
        fed = {n: a.detach().cpu().numpy() for n, a in zip(names, arguments, strict=True)}
        count = len(arguments[0])
        if not self.alone or count < 2:
            return torch.from_numpy(self._session.run(None, fed)[0])
        rows = ({name: array[row : row + 1] for name, array in fed.items()} for row in range(count))
        return torch.cat([torch.from_numpy(self._session.run(None, row)[0]) for row in rows])


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Warnings and notes of PyTorch's and ONNX Runtime's tools are theirs, and not the user's."""
    logger = logging.getLogger("torch.onnx")
    root, level = logging.getLogger(), logger.level
    before = root.level
    logger.setLevel(logging.ERROR)
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        root.setLevel(before)


def need_onnx() -> ModuleType:
    """The module `onnx`, with what PyTorch's exporter needs beside it.

    Raises:
        MissingExtra: One of them is not installed.
    """
    _need("onnxscript")
    return _need("onnx")


def _need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(
            f"{name} is not installed, which ONNX models need", todo="pip install 'fedward[export]'"
        ) from None
