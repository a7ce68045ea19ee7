"""Finished runs without training: a study, random weights, and hospitals if asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save_file

from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.simulation.hospitals import divide
from fedward.study.study import Study


def write_run(folder: Path, study: Study, *, models: Path | None = None, seed: int = 3) -> Path:
    """A run's folder whose model has weights that matter."""
    study = settled(study)
    folder.mkdir(parents=True)
    tables = study.model_dump(mode="json", exclude_none=True)
    (folder / "study.toml").write_bytes(tomli_w.dumps(tables).encode())
    model = build(study, seed=seed, models=models)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, entry in model.named_parameters():
            if entry.requires_grad and entry.ndim == 1:  # biases begin at 0, and say nothing
                entry.add_(0.1 * torch.randn(entry.shape, generator=source))
            if entry.requires_grad and ".lora_" in name:
                entry.add_(0.1 * torch.randn(entry.shape, generator=source))
    about: dict[str, Any] = {
        "study": study.study.name,
        "digest": study.digest(),
        "model": study.model.model_dump(mode="json"),
        "classes": study.task.classes,
        "threshold": 0.4,
    }
    save_file(
        flat.named(model), folder / "model.safetensors", metadata={"fedward": json.dumps(about)}
    )
    return folder


def write_hospitals(run: Path, study: Study, data: Path) -> None:
    """What a simulation leaves of its hospitals' records beside its model."""
    divide(settled(study), data, run / "hospitals", seed=0)
