"""A model that somebody asks about his own files: a finished run's, or an exported ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fedward.clinic.finished import read_finished, scaling_of
from fedward.clinic.onnx_file import OnnxModel
from fedward.clinic.provenance import parse_provenance
from fedward.study.errors import OptionError
from fedward.study.scaling import Scaling
from fedward.study.study import Study


@dataclass(frozen=True)
class AskedModel:
    """A network, and what it takes to ask it.

    Attributes:
        network: Judging, on the CPU.
        study: Says what a record is, and what the outputs mean.
        scaling: The constants that the run measured; None if it measured none.
        threshold: Probability from which a finding is called.
        gradients: Whether the network has any; ONNX models have none.
    """

    network: nn.Module
    study: Study
    scaling: Scaling | None
    threshold: float
    gradients: bool


def read_asked_model(
    path: Path,
    models: Path | None = None,
    *,
    own: Path | None = None,
    threshold: float | None = None,
) -> AskedModel:
    """Read a run's folder, or an ONNX file that `fedward export` wrote.

    Args:
        path: Of the folder or the file.
        models: This machine's folder of pretrained models, for a run that begins with one.
        own: A hospital's own model, instead of the run's.
        threshold: For a model whose file cannot say it.

    Raises:
        InputError: It is neither, or damaged.
    """
    if path.is_dir():
        run = read_finished(path, models=models, model=own, threshold=threshold)
        return AskedModel(run.model, run.study, run.scaling, run.facts.threshold, gradients=True)
    if own is not None or threshold is not None:
        raise OptionError(
            "--model and --threshold", todo="give them with the folder of a run", where=str(path)
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(
            f"cannot be read ({error.strerror})",
            todo="give a finished run's folder, or an exported .onnx file",
            where=str(path),
        ) from None
    network = OnnxModel(content, str(path))
    said = parse_provenance(network.said, str(path))
    study = said.contract(str(path))
    scaling = scaling_of(study, said.scaling, str(path))
    return AskedModel(network, study, scaling, said.threshold, gradients=False)
