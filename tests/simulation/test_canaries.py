"""Canaries: there or not by a coin, and a patient with as many records as asked for."""

from __future__ import annotations

import pytest
import torch

from fedward.client.data.records import Records
from fedward.simulation.canaries import Canaries, draw_canaries, population, suspects_of
from tests.simulation.conftest import study_of

STUDY = study_of()


def known() -> Records:
    """Five records of three patients, whose numbers have gaps."""
    inputs = torch.arange(15.0).reshape(5, 3)
    return Records(inputs, torch.tensor([0, 1, 0, 1, 1]), torch.tensor([4, 9, 4, 7, 9]))


def drawn(copies: int = 2) -> Canaries:
    return draw_canaries(STUDY, 6, copies=copies, seed=3)


def test_a_seed_draws_the_same_canaries() -> None:
    one, same, other = drawn(), drawn(), draw_canaries(STUDY, 6, copies=2, seed=4)

    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.labels, same.labels)
    assert torch.equal(one.included, same.included)
    assert not torch.equal(one.inputs, other.inputs)


def test_each_is_there_by_a_coin_of_its_own() -> None:
    found = torch.stack(
        [draw_canaries(STUDY, 50, copies=1, seed=seed).included for seed in range(200)]
    ).double()

    assert abs(found.mean().item() - 0.5) < 0.02
    assert found.mean(dim=0).sub(0.5).abs().max() < 0.15
    assert (torch.corrcoef(found.T) - torch.eye(50)).abs().max() < 0.35


def test_they_are_far_out_and_of_every_class() -> None:
    canaries = draw_canaries(STUDY, 400, copies=1, seed=0)

    assert canaries.inputs.shape == (400, 3)
    assert canaries.inputs.std().item() > 1.5
    assert canaries.labels.unique().tolist() == [0, 1]
    assert canaries.labels.double().mean().item() == pytest.approx(0.5, abs=0.1)
    agreed = (canaries.labels.bool() == canaries.included).double().mean()
    assert agreed.item() == pytest.approx(0.5, abs=0.1)  # the label does not tell


def test_everybody_is_suspected_once_with_the_canaries_last() -> None:
    suspects = suspects_of(known(), drawn())

    assert suspects.canaries == 6
    assert suspects.patients.tolist() == [0, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert torch.equal(suspects.inputs[:5], known().whole)
    assert torch.equal(suspects.inputs[5:], drawn().inputs)


@pytest.mark.parametrize("copies", [1, 2, 7])
def test_the_hospital_trains_on_all_records_of_those_who_are_there(copies: int) -> None:
    canaries = drawn(copies)

    records = population(known(), canaries)

    there = canaries.included.nonzero().flatten()
    expected = torch.cat([torch.tensor([0, 2, 0, 1, 2]), (there + 3).repeat_interleave(copies)])
    assert 0 < len(there) < 6
    assert torch.equal(records.patients, expected)
    assert torch.equal(records.whole[:5], known().whole)
    assert torch.equal(records.inputs[5:], canaries.inputs[there].repeat_interleave(copies, dim=0))
    assert torch.equal(records.labels[5:], canaries.labels[there].repeat_interleave(copies))
