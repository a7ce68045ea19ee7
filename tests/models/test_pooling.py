"""What becomes of a record's steps, against the same in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from fedward.models.pooling import Pool, Pooling
from fedward.models.registry import build, settled
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]
DNA = {"kind": "sequence", "length": 9, "alphabet": ["A", "C", "G", "T"]}
LENGTHS = (5, 2, 0)


def _steps() -> tuple[torch.Tensor, torch.Tensor]:
    """Three records of 5, 2 and no steps; what is after the end is large."""
    features = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) - 3
    there = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)
    return torch.where(there.unsqueeze(2), features, 1e6), there


@pytest.mark.parametrize("kind", ["mean", "max", "attention", "places"])
def test_each_kind_is_what_it_says_of_the_steps_that_are_there(kind: Pooling) -> None:
    features, there = _steps()
    pool = Pool(kind, 4, 5)

    found = pool(features, there)

    assert found.shape == (3, pool.width)
    for record, length in enumerate(LENGTHS):
        steps = features[record, :length].double().numpy()
        expected = np.zeros(pool.width)
        if kind == "places":
            expected[: 4 * length] = steps.ravel()
        elif length and kind == "mean":
            expected = steps.mean(axis=0)
        elif length and kind == "max":
            expected = steps.max(axis=0)
        elif length:
            weight, bias = (p.detach().double().numpy() for p in pool.score.parameters())
            scores = np.exp(steps @ weight[0] + bias)
            expected = scores @ steps / scores.sum()
        np.testing.assert_allclose(found[record].detach().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["bag_of_tokens", "temporal_cnn", "transformer"])
def test_the_mean_is_what_a_study_of_before_asked_for(name: str, study_with: StudyWith) -> None:
    """Its digest stays, and so do the names of its weights."""
    before, now = (
        study_with({"model": {"name": name, "width": 8, **more}, "data": DNA})
        for more in ({}, {"pooling": "mean"})
    )
    other = study_with({"model": {"name": name, "width": 8, "pooling": "max"}, "data": DNA})

    assert before.digest() == now.digest() != other.digest()
    assert "pooling" not in settled(before).contract()["model"]
    assert settled(other).contract()["model"]["pooling"] == "max"
    assert not [key for key in build(before, seed=0).state_dict() if "pool" in key]
