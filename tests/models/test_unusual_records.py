"""An autoencoder that learnt usual vital signs says unusual ones badly, as docs/models.md promises.

Heart rate, breathing, temperature, pressure and saturation hang together. In the unusual records
each value alone is usual, and they do not belong together.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fedward.client.data.records import Records
from fedward.client.evaluation import metric_sums
from fedward.client.training import train
from fedward.models import scores
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.privacy.steps import PlainSteps
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]

SIGNS = ("heart_rate", "resp_rate", "temperature", "pressure", "saturation")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def usual(count: int, seed: int) -> Tensor:
    """Five signs that follow two hidden states, and a little of their own; (n, 5)."""
    source = torch.Generator().manual_seed(seed)
    ways = torch.tensor([[1.0, 0.8, 0.7, -0.5, -0.6], [0.2, -0.5, 0.6, 0.9, 0.4]])
    states = torch.randn(count, 2, generator=source)
    return states @ ways + 0.1 * torch.randn(count, 5, generator=source)


def unusual(count: int, seed: int) -> Tensor:
    """The same values, each sign another patient's."""
    source, rows = torch.Generator().manual_seed(seed), usual(count, seed)
    places = [torch.randperm(count, generator=source) for _ in SIGNS]
    return torch.stack([rows[place, sign] for sign, place in enumerate(places)], dim=1)


def records(inputs: Tensor) -> Records:
    return Records(inputs, torch.zeros(len(inputs), 0), torch.arange(len(inputs)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"name": "autoencoder", "hidden": [16], "code": 2},
        {"name": "vae", "hidden": [16], "code": 2, "weight": 0.01},
    ],
    ids=lambda model: model["name"],
)
def test_unusual_vital_signs_have_large_errors(
    model: dict[str, Any], study_with: StudyWith
) -> None:
    study = study_with(
        {
            "task": {"kind": "reconstruction"},
            "model": model,
            "data": {"kind": "table", "label": [], "features": {sign: {} for sign in SIGNS}},
            "training.optimizer": "adam",
            "training.learning_rate": 0.01,
        }
    )
    network, task = build(study, seed=0), task_of(study)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    steps = PlainSteps(batch_size=64, epochs=40, steps=None, generator=generator)
    train(network, records(usual(1000, 1)), study, task, steps)

    good, odd = usual(400, 2), unusual(400, 3)
    sums = [metric_sums(network, records(some), task) for some in (good, odd)]
    area = scores.auc(*(each[-scores.BINS :] for each in sums))
    with torch.no_grad():
        errors = [(network(some)[:, :-1] - some).square().mean(dim=1) for some in (good, odd)]
    exact = roc_auc_score(np.repeat([0, 1], 400), torch.cat(errors).numpy())
    assert area == pytest.approx(exact, abs=5e-3)
    assert area is not None
    assert area > 0.9
    limit = task.metrics(sums[0])["error_95"]
    assert int((errors[0] > limit).sum()) <= 0.05 * 400
    assert int((errors[1] > limit).sum()) > 0.7 * 400


def test_the_page_s_example_is_a_study(values_with: Callable[..., dict[str, Any]]) -> None:
    section = PAGE.read_text("utf-8").split("## Unusual records")[1]
    tables = tomllib.loads(section.split("```toml")[1].split("```")[0])
    from fedward.models.registry import settled
    from fedward.study.study import parse_study

    study = settled(parse_study(values_with({}) | tables))

    assert study.model.name == "autoencoder"
    assert study.model.settings["code"] == 3
