"""A finished run's model in a format of others, which is tried before it is written.

What is written gave the outputs that the run's model gives, for one record, for a few and for
records of other lengths; with 8-bit weights or pruned ones the metrics say what was lost.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from fedward.clinic.finished import Finished
from fedward.clinic.network import Network, network_of
from fedward.clinic.new_file import refuse_place, write_new
from fedward.clinic.onnx_file import OnnxModel, quiet_exporters, to_onnx, with_provenance
from fedward.clinic.onnx_int8 import quantized
from fedward.clinic.provenance import KEY, provenance_of
from fedward.clinic.pruning import pruned
from fedward.clinic.real_records import RealRecords, random_inputs
from fedward.study.errors import ExportError, OptionError

Format = Literal["onnx", "safetensors", "torchscript"]
CLOSE = 1e-4
"""By how much an output may differ from PyTorch's, absolutely and in proportion."""


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for.

    Attributes:
        to: The format.
        quantize: `int8` for weights of 8 bits, of ONNX only.
        prune: Share of the weights that becomes 0, at least 0 and below 1.
    """

    to: Format
    quantize: Literal["int8"] | None = None
    prune: float = 0.0

    @property
    def lossy(self) -> bool:
        """Whether the model is another one afterwards."""
        return self.quantize is not None or self.prune > 0


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was tried.

    Attributes:
        bytes: Of the file.
        records: How many were tried.
        real: Whether they were somebody's records, not random numbers.
        difference: The largest one from PyTorch's outputs; None for 8-bit weights.
        shapes: Of an ONNX model's inputs; what is free has a name.
        before: Metrics of the run's model on the test parts; empty where it stays what it is.
        after: Metrics of what was written.
    """

    bytes: int
    records: int
    real: bool
    difference: float | None
    shapes: list[list[int | str]] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)


def refuse_impossible(wanted: Wanted, run: Finished, records: RealRecords) -> None:
    """Accept what can be done with this run, by returning.

    Raises:
        OptionError: It cannot.
    """
    if not 0 <= wanted.prune < 1:
        raise OptionError(f"--prune {wanted.prune:g}", todo="give a share from 0 to below 1")
    if wanted.quantize and wanted.to != "onnx":
        raise OptionError(
            f"--quantize {wanted.quantize} with --to {wanted.to}", todo="quantize ONNX only"
        )
    if wanted.quantize and run.study.task.kind == "generation":
        raise OptionError(
            "a generator's pictures have no metric for 8-bit weights", todo="leave --quantize out"
        )
    if wanted.lossy and not (len(records.some("test")) and len(records.some("train"))):
        raise OptionError(
            "there are no training and test records to see by what this changes",
            todo="give --data with a hospital's file",
        )


def export(run: Finished, wanted: Wanted, out: Path, records: RealRecords) -> Exported:
    """Write a run's model in another format, if it does the same there.

    Args:
        run: The finished run.
        wanted: What is asked for.
        out: The new file.
        records: To try it on; without any, random numbers of the study's shape are taken.

    Raises:
        OptionError: It cannot be done with this run, or there is no place for the file.
        MissingExtra: A package that exports is not installed.
        ExportError: The format cannot say this network, or what came out does not do the same;
            nothing is written.
    """
    refuse_place(out)
    refuse_impossible(wanted, run, records)
    inputs = records.some("test")
    real = len(inputs) > 0
    if not real:
        inputs = random_inputs(run.model, run.study, 8)
    model = pruned(run.model, wanted.prune) if wanted.prune else run.model
    network = network_of(model, run.study)
    tried_on: Literal["random"] | None = None if real else "random"
    said = provenance_of(
        run, pruned=wanted.prune, quantized=wanted.quantize, tried=tried_on
    ).document()
    content, written = _written(network, wanted, inputs, said, records)
    tried = _tried(network, written, inputs, exact=wanted.quantize is None)
    before, after = {}, {}
    if wanted.lossy:
        before = records.metrics(run.model, run)
        judged = written if wanted.quantize else model  # a pruned network does what was compared
        after = records.metrics(judged, run)
    write_new(out, content)
    shapes = written.shapes if isinstance(written, OnnxModel) else []
    return Exported(len(content), len(inputs), real, tried, shapes, before, after)


def _written(
    network: Network, wanted: Wanted, inputs: Tensor, said: str, records: RealRecords
) -> tuple[bytes, nn.Module]:
    """The file's content, and the network that is read from it again."""
    match wanted.to:
        case "onnx":
            example = torch.cat([inputs, inputs])[:2]
            content = to_onnx(network, example)
            if wanted.quantize:
                content = quantized(content, records.some("train"))
            content = with_provenance(content, said)
            return content, OnnxModel(content, "the exported model")
        case "torchscript":
            return _torchscript(network, inputs, said)
        case "safetensors":
            return _safetensors(network, said)


def _torchscript(network: Network, inputs: Tensor, said: str) -> tuple[bytes, nn.Module]:
    arguments = network.arguments(torch.cat([inputs, inputs])[:2])
    file = io.BytesIO()
    try:
        with quiet_exporters(), torch.no_grad():
            traced = torch.jit.trace(network.module, arguments, check_trace=False)
            torch.jit.save(traced, file, _extra_files={KEY: said})
            content = file.getvalue()
            read: nn.Module = torch.jit.load(io.BytesIO(content))
    except RuntimeError as error:
        raise ExportError(
            f"PyTorch cannot trace this network ({' '.join(str(error).split())[:200]})",
            todo="export it --to onnx",
        ) from None
    return content, read


def _safetensors(network: Network, said: str) -> tuple[bytes, nn.Module]:
    """All weights; the network is put together from the study."""
    weights = {n: w.detach().clone().contiguous() for n, w in network.module.state_dict().items()}
    content = save(weights, metadata={KEY: said})
    read = copy.deepcopy(network.module)
    for entry in read.state_dict().values():
        entry.zero_()
    read.load_state_dict(load(content), strict=True)
    return content, read


@torch.no_grad()
def _tried(network: Network, written: nn.Module, inputs: Tensor, *, exact: bool) -> float | None:
    """The largest difference from PyTorch; None where the weights are other ones.

    Raises:
        ExportError: It is too large, or what was written cannot be run.
    """
    largest = 0.0
    for records in _ways(network, inputs):
        arguments = network.arguments(records)
        try:
            found = written(*arguments)
        except Exception as error:  # of whatever runs it
            raise ExportError(
                f"what was exported cannot be run on {tuple(records.shape)} "
                f"({' '.join(str(error).split())[:200]})",
                todo="nothing was written; export it in another format",
            ) from None
        truth = network.module(*arguments)
        if found.shape != truth.shape or not bool(found.isfinite().all()):
            raise ExportError(
                f"what was exported gives {tuple(found.shape)} for {tuple(truth.shape)}, or no "
                "numbers",
                todo="nothing was written; export it in another format",
            )
        difference = ((found - truth).abs() / truth.abs().clamp(min=1)).max().item()
        largest = max(largest, difference)
    if not exact:
        return None
    if not largest <= CLOSE:
        raise ExportError(
            f"what was exported differs by {largest:.1e} from PyTorch, more than {CLOSE:g}",
            todo="nothing was written; export it in another format",
        )
    return largest


def _ways(network: Network, inputs: Tensor) -> list[Tensor]:
    """The records one, five and all at once; cut shorter where any length is taken."""
    several = inputs.repeat(5, *[1] * (inputs.ndim - 1))
    ways = [inputs[:1], several[:5], inputs]
    if network.free_length:
        length = inputs.shape[-1]
        ways += [inputs[..., : max(1, length // 2)], inputs[:1, ..., :1]]
        if network.longest is None:
            ways.append(torch.cat([inputs, inputs], dim=-1))
    return ways
