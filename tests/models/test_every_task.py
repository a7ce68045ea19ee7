"""What holds of every task: of its sums, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.task_kinds import KINDS, records

ADDED = [kind for kind in KINDS if kind not in {"survival", "cox"}]


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_as_long_as_promised_and_count_records(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 9)

    sums = asked.sums(outputs, truth)

    assert sums.shape == (asked.size,)
    assert sums[0] == 9
    whole = np.delete(sums, asked.reals)
    assert np.array_equal(whole, np.rint(whole))
    assert np.array_equal(asked.sums(outputs[:0], truth[:0]), np.zeros(asked.size))


@pytest.mark.parametrize("kind", ADDED)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 30))
def test_sums_are_the_same_over_any_split(kind: str, seed: int, cut: int, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 30, seed)

    pieces = asked.sums(outputs[:cut], truth[:cut]) + asked.sums(outputs[cut:], truth[cut:])

    assert not asked.whole
    np.testing.assert_allclose(pieces, asked.sums(outputs, truth), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cox"])  # risk sets join
def test_the_loss_is_each_record_s_own(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 6)

    loss = asked.loss(outputs, truth)

    alone = [asked.loss(outputs[i : i + 1], truth[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(loss, torch.cat(alone))
    assert asked.metrics(asked.sums(outputs, truth))["loss"] == pytest.approx(
        loss.mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_output_makes_bounded_sums_too_large(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 12)
    odd = [float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 0.0]
    outputs.view(-1)[: 2 * len(odd)] = torch.tensor(odd * 2)

    sums = asked.sums(asked.bounded(outputs), truth)

    assert np.isfinite(sums).all()
    assert 0 <= sums[1] <= 12 * 2e6
    assert all(v is None or np.isfinite(v) for v in flat(asked.metrics(sums)))


@pytest.mark.parametrize("kind", KINDS)
def test_bounded_outputs_mean_the_same(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, truth = records(kind, 40)

    plain, bounded = (asked.sums(o, truth) for o in (outputs, asked.bounded(outputs)))

    np.testing.assert_allclose(bounded[1], plain[1], rtol=1e-5)
    assert np.abs(np.delete(bounded, 1) - np.delete(plain, 1)).sum() <= 2  # a bin's edge


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_nobody_are_none(kind: str, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)

    metrics = asked.metrics(np.zeros(asked.size))

    assert metrics.pop("records") == 0
    assert set(metrics.values()) == {None}


def flat(metrics: Mapping[str, Any]) -> list[float | None]:
    return [
        value
        for entry in metrics.values()
        for value in (flat(entry) if isinstance(entry, dict) else [entry])
    ]
