"""Randomness: repeatable in a simulation, and only there."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.randomness import generator


def numbers(source: torch.Generator) -> list[float]:
    found: list[float] = torch.rand(4, generator=source).tolist()
    return found


@given(st.integers(0, 2**63 - 1), st.text(max_size=5), st.integers(0, 99))
def test_the_same_seed_and_purpose_give_the_same_numbers(seed: int, name: str, number: int) -> None:
    one, other = (generator(seed, name, number) for _ in range(2))

    assert numbers(one) == numbers(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "a", 1), (2, "a", 1)),
        ((1, "a", 1), (1, "b", 1)),
        ((1, "a", 1), (1, "a", 2)),
        ((1, "a", 11), (1, "a1", 1)),
        ((1, "ab", "c"), (1, "a", "bc")),
        ((12, "a"), (1, "2", "a")),
    ],
)
def test_another_seed_or_purpose_gives_other_numbers(
    one: tuple[int, str], other: tuple[int, str]
) -> None:
    assert numbers(generator(*one)) != numbers(generator(*other))


def test_without_a_seed_every_generator_is_another() -> None:
    found = {tuple(numbers(generator(None, "a"))) for _ in range(50)}

    assert len(found) == 50


def test_without_a_seed_no_global_seed_helps_to_guess() -> None:
    found = []
    for _ in range(2):
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - the global state is the point
        found.append(numbers(generator(None, "noise")))

    assert found[0] != found[1]


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()

    numbers(generator(3, "a"))

    assert torch.equal(torch.random.get_rng_state(), before)
