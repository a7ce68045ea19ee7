"""The secret stream: known answers, the right distribution, and no number twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedward.privacy import secret_stream
from fedward.privacy.secret_stream import SecretStream

KEY = bytes(range(32))
MANY = 200_000
DOUBLE_MOMENTS = {1: 1.0, 2: 3.0, 3: 15.0, 4: 105.0, 6: 10395.0}
"""Moments of twice the order of a standard normal number."""


def words_of(key: bytes, count: int) -> list[int]:
    """The cipher's own stream, as whole numbers of 64 bits."""
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return [int.from_bytes(stream[at : at + 8], "little") for at in range(0, len(stream), 8)]


def test_uniform_numbers_are_the_ciphers_low_53_bits() -> None:
    found = SecretStream(KEY).uniform(50).tolist()

    assert found == [(word % 2**53) / 2**53 for word in words_of(KEY, 50)]


def box_muller(u: list[float]) -> list[float]:
    half = len(u) // 2
    radii = [math.sqrt(-2 * math.log(first)) for first in u[:half]]
    turns = [2 * math.pi * second for second in u[half:]]
    cosines = [r * math.cos(t) for r, t in zip(radii, turns, strict=True)]
    return cosines + [r * math.sin(t) for r, t in zip(radii, turns, strict=True)]


def test_normal_numbers_are_half_the_sum_of_four_of_box_and_mullers() -> None:
    half = 1 << 12  # of a chunk
    u = [(word % 2**53) / 2**53 for word in words_of(KEY, 8 * half)]
    radii, turns = (u[at : at + 4 * half] for at in (0, 4 * half))
    four = [
        box_muller(radii[at : at + half] + turns[at : at + half]) for at in range(0, 4 * half, half)
    ]

    found = SecretStream(KEY).normal(2 * half)

    assert found.dtype == torch.float64
    wanted = [sum(terms) / 2 for terms in zip(*four, strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_short_draws_and_a_long_one_are_the_same_numbers() -> None:
    one, other = SecretStream(KEY), SecretStream(KEY)
    counts = [1, 0, 5, 8186, 1, 20_000, 3]

    found = torch.cat([one.normal(count) for count in counts])

    assert torch.equal(found, other.normal(sum(counts)))


def test_numpy_and_pytorch_make_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the two is used hangs on the processor."""
    drawn: list[torch.Tensor] = []
    for processor in ({}, {"dd": {"current": "baseline(NEON)"}}, {"dd": {"current": "X86_V4"}}):

        def described(*_: str, found: object = processor) -> object:
            return {"log": found, "tan": found}

        monkeypatch.setattr(secret_stream, "opt_func_info", described)
        for name in ("log", "tan"):
            monkeypatch.setattr(secret_stream, f"_{name}", secret_stream._in_place(name))
        drawn.append(SecretStream(KEY).normal(20_000))

    assert torch.equal(drawn[0], drawn[1])
    assert torch.allclose(drawn[0], drawn[2], rtol=1e-12, atol=1e-12)


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=4))
def test_any_number_of_numbers_can_be_had(counts: list[int]) -> None:
    stream = SecretStream.pretended(1)
    for count in counts:
        assert len(stream.normal(count)) == len(stream.uniform(count)) == count


def test_normal_numbers_are_normal() -> None:
    drawn = SecretStream.pretended(2).normal(MANY).numpy()

    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)):
        spread = math.sqrt(DOUBLE_MOMENTS[power] - moment**2)
        assert abs((drawn**power).mean() - moment) < 4 * spread / math.sqrt(MANY)
    beyond = float((np.abs(drawn) > 3).mean())
    expected = math.erfc(3 / math.sqrt(2))
    assert abs(beyond - expected) < 4 * math.sqrt(expected / MANY)


def test_uniform_numbers_are_uniform_and_never_0_or_1() -> None:
    drawn = SecretStream.pretended(3).uniform(MANY).numpy()

    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert drawn.min() > 0
    assert drawn.max() < 1


def test_numbers_do_not_hang_together() -> None:
    """Neighbours, the two halves of a transform, and one draw and the next."""
    stream = SecretStream.pretended(4)
    first, second = (stream.normal(MANY).numpy() for _ in range(2))
    half = 1 << 12  # of a chunk: its cosines and its sines
    limit = 4 / math.sqrt(half)

    for one, other in (
        (first[:-1], first[1:]),
        (first, second),
        (first[:half], first[half : 2 * half]),
        (np.abs(first[:half]), np.abs(first[half : 2 * half])),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < limit


# --- What noise is added to -----------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [1e-3, 0.7, 1.0, 48.0])
@pytest.mark.parametrize("value", [0.0, 0.3, 1e-9, -77.0])
def test_a_noisy_number_is_as_precise_whatever_it_hides(value: float, deviation: float) -> None:
    values = torch.full((20_000,), value)

    found = SecretStream.pretended(7).noisy(values, deviation)

    steps = found / 2.0 ** (math.floor(math.log2(deviation)) - 23)
    assert torch.equal(steps, steps.round())
    assert len((steps.abs() % 16).unique()) == 16
    noise = ((found - values) / deviation).numpy()
    assert stats.kstest(noise, "norm").pvalue > 1e-3


def test_noise_is_the_streams_normal_numbers() -> None:
    values = torch.linspace(-1, 1, 1001)

    found = SecretStream(KEY).noisy(values, 0.5)

    assert torch.allclose(found, values + 0.5 * SecretStream(KEY).normal(1001), rtol=0, atol=1e-7)
    assert found.dtype == torch.float64


def test_the_last_bits_of_a_noisy_float_do_not_tell_whether_it_hides_a_zero() -> None:
    """Rounded before it is scaled, noise leaves holes: a sum that falls into one hides no zero."""

    def holes(found: torch.Tensor, deviation: float) -> float:
        """Share of numbers that no float32 is brought to by the deviation."""
        near = (found.double() / deviation).float()
        up, down = (torch.nextafter(near, torch.tensor(end)) for end in (math.inf, -math.inf))
        reached = [(one * torch.tensor(deviation)) == found for one in (near, up, down)]
        return 1 - float(torch.stack(reached).any(dim=0).float().mean())

    shares = []
    for value in (0.0, 0.3):
        stream = SecretStream.pretended(8)
        shares.append(holes(stream.noisy(torch.full((MANY,), value), 1.37).float(), 1.37))
    naive = SecretStream.pretended(8).normal(MANY).float() * torch.tensor(1.37)

    assert holes(naive, 1.37) == 0
    assert min(shares) > 0.05
    assert abs(shares[0] - shares[1]) < 0.05


def test_without_a_deviation_there_is_no_noise() -> None:
    values = torch.tensor([0.1, -3.0])

    assert torch.equal(SecretStream(KEY).noisy(values, 0.0), values.double())


# --- Streams --------------------------------------------------------------------------------------


def test_no_two_streams_are_the_same() -> None:
    streams = [SecretStream.fresh() for _ in range(20)]
    streams += [SecretStream.pretended(seed, "noise", r) for seed in range(5) for r in range(5)]
    drawn = {tuple(stream.normal(8).tolist()) for stream in streams}

    assert len(drawn) == len(streams)


def test_a_stream_never_comes_back_to_where_it_was() -> None:
    stream = SecretStream.pretended(5)
    drawn = torch.cat([stream.uniform(1000) for _ in range(50)])

    assert len(drawn.unique()) == len(drawn)


def test_a_pretended_stream_can_be_drawn_again() -> None:
    one, other = (SecretStream.pretended(6, "noise", 3).normal(100) for _ in range(2))

    assert torch.equal(one, other)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(bytes(size))


def test_nothing_of_the_key_is_shown() -> None:
    assert repr(SecretStream(KEY)) == "SecretStream()"
