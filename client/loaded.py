"""An approved study and its records, ready to be trained and judged on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from fedward.client.charging import Patients
from fedward.client.data.records import Parts, Records
from fedward.client.population import population_digest
from fedward.models import flat
from fedward.models.registry import build
from fedward.models.resampled import Resampled, resampled_of
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Task
from fedward.models.travelling import travelling
from fedward.privacy.contribution import Layout
from fedward.privacy.gradients.source import Gradients
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.statistics import layout_of
from fedward.privacy.statistics_table import cells_of
from fedward.study.messages import (
    EvaluateRequest,
    MeasureRequest,
    Request,
    TrainRequest,
    Vector,
)
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study


@dataclass(frozen=True)
class Loaded:
    """An approved study with everything that it needs, kept between requests.

    Attributes:
        study: The study.
        task: Its task.
        model: Its network, on the device; the weights are the last request's.
        parts: The hospital's records, on the device; measured features are not scaled.
        patients: Whom it trains on, and judges on with noise; None for a study that is not
            private.
    """

    study: Study
    task: Task
    model: nn.Module
    parts: Parts
    patients: Patients | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if it is private, and of nobody: it would be trained plainly."""
        if isinstance(self.study.privacy, LocalPrivacy) and self.patients is None:
            raise ValueError("a private study, and not a word on whose the records are")
        _ = self.resampled  # what is too much is refused before anything is asked
        _ = self.fresh  # before a request puts other weights into the model

    @cached_property
    def resampled(self) -> Resampled | None:
        """What leaves beside the metric sums of the test part; None where nothing does."""
        return resampled_of(self.study, self.task)

    @cached_property
    def travelling(self) -> tuple[str, ...]:
        """Names of the model's entries that travel."""
        return travelling(self.study, self.model)

    @cached_property
    def fresh(self) -> Vector:
        """The entries that do not travel, as the network was built with them."""
        return flat.flatten(self.model, set(flat.names(self.model)) - set(self.travelling))

    @cached_property
    def size(self) -> int:
        """Length of what travels of the model, as a flat vector."""
        return len(flat.flatten(self.model, set(self.travelling)))

    def size_of(self, request: Request) -> int:
        """Length of the vector that a request brings; what a round sends back is as long."""
        several = self.study.aggregation.vectors if isinstance(request, TrainRequest) else 1
        return several * self.size

    def layout(self, request: Request) -> Layout:
        """Of what is added to the sum in answer to a request."""
        if isinstance(request, MeasureRequest):
            return layout_of(self.study.data, cells=cells_of(self.study))
        if isinstance(request, TrainRequest):
            return Layout(self.size_of(request), self.task.size, self.task.reals)
        judged = Layout(0, self.task.size, self.task.reals).of_models(self.study.judged_models)
        more = self.resampled_for(request)
        return judged if more is None else judged.with_more(more.size, more.reals)

    def resampled_for(self, request: EvaluateRequest) -> Resampled | None:
        """What leaves beside the metric sums in answer to a request."""
        return self.resampled if request.part == "test" else None


def ready(
    study: Study,
    parts: Parts,
    *,
    state: Path,
    device: torch.device,
    gradients: Gradients = "fedward",
    models: Path | None = None,
) -> Loaded:
    """A study and its records on a device.

    Args:
        study: Approved.
        parts: The hospital's records for it.
        state: The hospital's folder of state.
        device: To train on.
        gradients: Who makes each patient's gradient.
        models: The hospital's folder of pretrained models.

    Raises:
        PrivacyError: The study is private, and its model cannot be trained so.
        DataError: The key of the patients' digest cannot be read or made.
    """
    model, patients = build(study, seed=0, models=models), None
    if isinstance(study.privacy, LocalPrivacy):
        refuse_unprotected(model, gradients)
        noised = study.evaluation_noise is not None
        judging = [parts["validation"], parts["test"]] if noised else []
        patients = _patients(state, parts["train"], *judging)  # once: images take a while
    return Loaded(
        study=study,
        task=task_of(study),
        model=model.to(device),
        parts={part: records.to(device) for part, records in parts.items()},
        patients=patients,
    )


def _patients(state: Path, records: Records, *judging: Records) -> Patients:
    cpu = torch.device("cpu")
    digest = population_digest(records.to(cpu), state, *(part.to(cpu) for part in judging))
    return Patients(digest, len(records.patients.unique()))
