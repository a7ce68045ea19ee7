"""Records that a finished model is tried on: a hospital's, or the run's pretended hospitals'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedward.client.data.reading import read_parts
from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.client.hospital import read_hospital
from fedward.client.scaling import scaled
from fedward.clinic.finished import Finished
from fedward.models.inputs import inputs_of
from fedward.study.messages import Part
from fedward.study.study import Study

_SOME = 64
_NUMBERS = 2**23  # of the inputs that are tried, at most


@dataclass(frozen=True)
class RealRecords:
    """Records of one or several hospitals, as the model sees them.

    Attributes:
        hospitals: Records of each by part; none where nobody's data is at hand.
    """

    hospitals: tuple[dict[Part, Records], ...]

    def some(self, part: Part) -> Tensor:
        """Inputs of a few records of a part, of all hospitals alike, shape (n, *input_shape)."""
        there = [parts[part] for parts in self.hospitals if len(parts[part])]
        if not there:
            return torch.zeros(0)
        numbers = max(1, int(np.prod(there[0].inputs.shape[1:])))
        each = max(1, min(_SOME, _NUMBERS // numbers) // len(there))
        return torch.cat([records.first(each).whole for records in there])

    def metrics(self, model: nn.Module, run: Finished) -> dict[str, Any]:
        """What a model comes to on the test parts, at the run's threshold."""
        total = np.zeros(run.task.size)
        for parts in self.hospitals:
            total += metric_sums(model, parts["test"], run.task)
        return run.task.metrics(total, run.facts.threshold)


def read_real_records(run: Finished, data: Path | None) -> RealRecords:
    """The records of a hospital, or of the hospitals that a simulation left in its folder.

    Args:
        run: The finished run.
        data: A hospital's file; None for the run's own hospitals, which may be none.

    Raises:
        InputError: A hospital's file or its records cannot be read.
    """
    files = [data] if data else sorted((run.folder / "hospitals").glob("*/hospital.toml"))
    return RealRecords(tuple(_parts(run, file) for file in files))


def random_inputs(model: nn.Module, study: Study, count: int) -> Tensor:
    """Inputs of a study's shape that mean nothing, the same each time, (count, *input_shape)."""
    source, inputs = torch.Generator().manual_seed(0), inputs_of(study.data)
    if inputs.kind in {"tokens", "pieces"}:
        most = inputs.tokens
        if inputs.kind == "pieces":  # the pretrained body alone knows how many there are
            body: Any = model.get_submodule("body")
            most = body.get_input_embeddings().num_embeddings + 1
        return torch.randint(1, most, (count, *inputs.shape), generator=source)
    found = torch.randn(count, *inputs.shape, generator=source)
    if inputs.padded:
        found[:, -1] = 1.0
    return found


def _parts(run: Finished, file: Path) -> dict[Part, Records]:
    hospital = read_hospital(file)
    study = run.study.model_copy(update={"evaluation": None})  # nobody is told of subgroups here
    parts = read_parts(hospital, study, file.parent)
    return parts if run.scaling is None else scaled(parts, run.study.data, run.scaling)
