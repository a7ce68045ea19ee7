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
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Task
from fedward.privacy.gradients.source import Gradients
from fedward.privacy.precision import Precision, refuse_imprecise
from fedward.privacy.private_model import refuse_unprotected
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

    @cached_property
    def size(self) -> int:
        """Length of the model as a flat vector."""
        return len(flat.flatten(self.model))


def ready(
    study: Study,
    parts: Parts,
    *,
    state: Path,
    device: torch.device,
    precision: Precision,
    gradients: Gradients = "fedward",
) -> Loaded:
    """A study and its records on a device.

    Args:
        study: Approved.
        parts: The hospital's records for it.
        state: The hospital's folder of state.
        device: To train on.
        precision: How finely it computes.
        gradients: Who makes each patient's gradient.

    Raises:
        PrivacyError: The study is private, and its model cannot be trained so.
        DataError: The key of the patients' digest cannot be read or made.
    """
    model, patients = build(study, seed=0), None
    if isinstance(study.privacy, LocalPrivacy):
        refuse_imprecise(precision)
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
