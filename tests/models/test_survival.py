"""Survival: likelihoods by hand and by all pairs, concordance against the exact one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedward.models.task import task_of
from fedward.study.errors import StudyError
from fedward.study.study import Study
from tests.models.task_kinds import KINDS, records

StudyWith = Callable[[Mapping[str, object]], Study]


def test_the_likelihood_of_hazards_by_hand(task: Any) -> None:  # noqa: ANN401
    """An event in the third interval; one not seen past the second's middle, or before it."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.3]])
    hazards = logits.sigmoid().double()[0]
    kept = torch.log(1 - hazards)
    told = torch.tensor([[3.0, 1], [1.6, 0], [1.4, 0], [0.1, 1], [9.0, 1]])

    loss = task("survival").loss(logits.expand(5, 4), told)

    by_hand = [
        -(kept[0] + kept[1] + hazards[2].log()),
        -(kept[0] + kept[1]),
        -kept[0],
        -hazards[0].log(),
        -kept.sum(),  # after the last interval nothing is seen
    ]
    assert loss.tolist() == pytest.approx([float(value) for value in by_hand], rel=1e-5)


def test_the_partial_likelihood_by_hand(task: Any) -> None:  # noqa: ANN401
    risk = torch.tensor([[0.3], [-0.7], [1.1], [0.0]])
    told = torch.tensor([[2.0, 1], [5.0, 0], [1.0, 1], [2.0, 1]])
    e = risk.double().exp().flatten()
    by_hand = [
        torch.log(e[0] + e[1] + e[3]) - risk[0, 0],
        torch.tensor(0.0),
        torch.log(e.sum()) - risk[2, 0],
        torch.log(e[0] + e[1] + e[3]) - risk[3, 0],
    ]

    loss = task("cox").loss(risk, told)

    assert loss.tolist() == pytest.approx([float(value) for value in by_hand], rel=1e-5)


def by_all_pairs(risk: Tensor, times: Tensor, seen: Tensor) -> Tensor:
    """The same, each record's risk set gathered by comparing it with all others."""
    at_risk = times.unsqueeze(0) >= times.unsqueeze(1)
    total = risk.unsqueeze(0).masked_fill(~at_risk, -torch.inf).logsumexp(dim=1)
    return torch.where(seen, total - risk, risk.new_zeros(()))


@pytest.mark.parametrize("count", [1, 2, 300])
def test_the_partial_likelihood_and_its_gradient_are_those_of_all_pairs(
    count: int,
    task: Any,  # noqa: ANN401
) -> None:
    source = torch.Generator().manual_seed(count)
    risk = torch.randn(count, 1, generator=source, dtype=torch.double).mul(3).requires_grad_()
    times = torch.randint(1, 40, (count,), generator=source) / 5  # most of them tied
    seen = torch.rand(count, generator=source) < 0.6
    asked = task("cox")

    loss = asked.loss(risk, torch.stack([times, seen.float()], dim=1))

    expected = by_all_pairs(risk[:, 0], times, seen & (times < 8))
    torch.testing.assert_close(loss, expected)
    found, by_hand = (torch.autograd.grad(each.sum(), risk)[0] for each in (loss, expected))
    torch.testing.assert_close(found, by_hand)


class Largest(TorchDispatchMode):
    """Watches how large tensors get."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, Tensor):
                self.most = max(self.most, each.numel())
        return found


def test_the_partial_likelihood_compares_no_pairs(task: Any) -> None:  # noqa: ANN401
    """Of 100 000 patients all pairs would be 10 GB."""
    outputs, told = records("cox", 500)

    with Largest() as watched:  # type: ignore[no-untyped-call]
        task("cox").loss(outputs, told)

    assert 500 <= watched.most <= 2 * 500


def exact_concordance(risk: NDArray[Any], times: NDArray[Any], seen: NDArray[Any]) -> float:
    """Harrell's, pair by pair."""
    pairs = concordant = 0.0
    for i in np.flatnonzero(seen):
        for j in range(len(risk)):
            if times[i] < times[j] or (times[i] == times[j] and not seen[j]):
                pairs += 1
                concordant += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return concordant / pairs


@pytest.mark.parametrize("kind", ["survival", "cox"])
@pytest.mark.parametrize("seed", range(3))
def test_concordance_is_the_exact_one(kind: str, seed: int, task: Any) -> None:  # noqa: ANN401
    asked = task(kind)
    outputs, told = records(kind, 400, seed)
    risk, times = asked.risk(outputs).numpy(), told[:, 0].numpy()
    seen = (told[:, 1].numpy() > 0.5) & (times < 8)
    exact = exact_concordance(risk, times, seen)

    metrics = asked.metrics(asked.sums(outputs, told))

    assert 0.6 < exact < 0.95
    assert metrics["concordance_inside"] == pytest.approx(exact, abs=1e-9)
    assert metrics["concordance"] == pytest.approx(exact, abs=0.01)
    assert metrics["events"] == seen.sum()


@pytest.mark.parametrize("kind", ["survival", "cox"])
def test_pairs_of_two_hospitals_count_in_the_pooled_concordance_alone(kind: str, task: Any) -> None:  # noqa: ANN401
    """One hospital's patients fail late and are thought safe, the other's the other way round."""
    asked = task(kind)
    outputs, told = records(kind, 600)
    late = told[:, 0] > told[:, 0].median()
    parts = [asked.sums(outputs[some], told[some]) for some in (late, ~late)]
    everything = asked.metrics(asked.sums(outputs, told))

    added = asked.metrics(parts[0] + parts[1])

    assert asked.whole
    assert added["concordance"] == pytest.approx(everything["concordance"], abs=1e-12)
    assert added["concordance_inside"] < everything["concordance_inside"] - 0.03


def test_ties_and_order_of_two_patients(task: Any) -> None:  # noqa: ANN401
    asked = task("cox")
    told = torch.tensor([[1.0, 1], [3.0, 0]])
    worth = [
        asked.metrics(asked.sums(torch.tensor([[first], [0.0]]), told)) for first in (2.0, -2.0, 0)
    ]

    assert [m["concordance"] for m in worth] == [1.0, 0.0, 0.5]
    assert [m["concordance_inside"] for m in worth] == [1.0, 0.0, 0.5]


def test_cox_is_refused_where_patients_are_protected(study_with: StudyWith) -> None:
    privacy = {"mode": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.5}
    study = study_with({**KINDS["cox"], "privacy": privacy})

    with pytest.raises(StudyError) as caught:
        task_of(study)
    assert caught.value.key == "task.loss"
