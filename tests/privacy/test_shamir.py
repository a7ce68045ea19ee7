"""Secret sharing: worked by hand, over every subset, and useless below the threshold."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy import shamir
from fedward.privacy.protocol_errors import BadShare
from fedward.privacy.shamir import SHARE_SIZE, combine, split

PRIME = 2**256 + 297
SECRET = bytes(range(1, 33))
SECRETS = st.binary(min_size=32, max_size=32)


def share(x: int, y: int) -> bytes:
    return x.to_bytes(2, "big") + y.to_bytes(33, "big")


def number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def probably_prime(n: int) -> bool:
    """Miller and Rabin, for the first 40 primes as bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    bases = [b for b in range(2, 174) if all(b % d for d in range(2, b))]
    return all(
        pow(b, odd, n) == 1 or any(pow(b, odd << i, n) == n - 1 for i in range(twos)) for b in bases
    )


def test_the_field_s_size_is_the_smallest_prime_above_every_secret() -> None:
    assert shamir._PRIME == PRIME
    assert probably_prime(PRIME)
    assert not any(probably_prime(2**256 + i) for i in range(1, 297, 2))


def test_a_polynomial_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """f(x) = 1234 + 166 x + 94 x**2: the well-known example."""
    coefficients = iter([166, 94])
    monkeypatch.setattr("fedward.privacy.shamir.secrets.randbelow", lambda _: next(coefficients))
    points = [(1, 1494), (2, 1942), (3, 2578), (4, 3402), (5, 4414), (6, 5614)]
    shares = [share(x, y) for x, y in points]

    assert split(number(1234), threshold=3, holders=6) == shares
    assert combine([shares[1], shares[3], shares[4]], threshold=3) == number(1234)


def test_a_polynomial_that_wraps_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """f(x) = 5 + (p - 1) x: f(1) = 4, f(5) = 0, f(6) = p - 1."""
    monkeypatch.setattr("fedward.privacy.shamir.secrets.randbelow", lambda below: below - 1)
    shares = split(number(5), threshold=2, holders=6)

    assert shares[0] == share(1, 4)
    assert shares[4] == share(5, 0)
    assert shares[5] == share(6, PRIME - 1)
    assert combine(shares[4:], threshold=2) == number(5)


def test_coefficients_are_drawn_from_the_whole_field(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def randbelow(below: int) -> int:
        asked.append(below)
        return 0

    monkeypatch.setattr("fedward.privacy.shamir.secrets.randbelow", randbelow)
    split(SECRET, threshold=4, holders=5)

    assert asked == [PRIME] * 3


@pytest.mark.parametrize("holders", range(1, 7))
def test_every_large_enough_subset_in_any_order_has_the_secret(holders: int) -> None:
    for threshold in range(1, holders + 1):
        shares = split(SECRET, threshold=threshold, holders=holders)
        for size in range(threshold, holders + 1):
            for some in combinations(shares, size):
                assert combine(some, threshold=threshold) == SECRET
                assert combine(some[::-1], threshold=threshold) == SECRET


@given(secret=SECRETS, holders=st.integers(1, 40), data=st.data())
def test_a_round_trip(secret: bytes, holders: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, holders))
    shares = split(secret, threshold=threshold, holders=holders)
    some = data.draw(st.permutations(shares))[:threshold]

    assert combine(some, threshold=threshold) == secret
    assert [s[:2] for s in shares] == [x.to_bytes(2, "big") for x in range(1, holders + 1)]
    assert {len(s) for s in shares} == {SHARE_SIZE} == {35}


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_smallest_and_the_largest_secret(secret: bytes) -> None:
    assert combine(split(secret, threshold=3, holders=4)[1:], threshold=3) == secret


def test_as_many_holders_as_there_can_be() -> None:
    shares = split(SECRET, threshold=2, holders=65535)

    assert combine([shares[-1], shares[30_000]], threshold=2) == SECRET


@pytest.mark.parametrize("threshold", [2, 3])
def test_one_share_too_few_tells_nothing(threshold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a field of 7: the same shares, equally often, whatever the secret is."""
    monkeypatch.setattr(shamir, "_PRIME", 7)
    seen = [
        Counter(
            tuple(shamir._evaluate([secret, *others], 4)[: threshold - 1])
            for others in product(range(7), repeat=threshold - 1)
        )
        for secret in range(7)
    ]

    assert len(seen[0]) == 7 ** (threshold - 1)
    assert all(counts == seen[0] for counts in seen)


def test_two_sharings_of_a_secret_differ() -> None:
    one, other = (split(SECRET, threshold=2, holders=3) for _ in range(2))

    assert not set(one) & set(other)


def test_too_low_a_threshold_gives_another_secret() -> None:
    shares = split(SECRET, threshold=3, holders=5)

    assert refused_or(shares[:2], 2) != SECRET


# --- Shares that are wrong ------------------------------------------------------------------------

GOOD = split(SECRET, threshold=3, holders=5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_shares_are_refused(count: int) -> None:
    with pytest.raises(BadShare):
        combine(GOOD[:count], threshold=3)


def test_the_same_share_twice_counts_once() -> None:
    assert combine([*GOOD[:3], GOOD[0]], threshold=3) == SECRET
    with pytest.raises(BadShare):
        combine([GOOD[0], GOOD[1], GOOD[0]], threshold=3)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\0",
        GOOD[3][:-1],
        GOOD[3] + b"\0",
        GOOD[3][:34],
        share(0, 1),
        share(6, PRIME),
        share(6, 2**264 - 1),
        share(1, (int.from_bytes(GOOD[0][2:], "big") + 1) % PRIME),
        bytes(100_000),
    ],
    ids=["empty", "byte", "short", "long", "34", "x=0", "y=p", "y max", "contradiction", "huge"],
)
def test_one_bad_share_is_refused_even_where_enough_are_good(bad: bytes) -> None:
    for place in range(len(GOOD)):
        with pytest.raises(BadShare):
            combine([*GOOD[:place], bad, *GOOD[place:]], threshold=3)


@pytest.mark.parametrize("bit", range(8 * SHARE_SIZE))
def test_a_changed_bit_never_gives_the_secret(bit: int) -> None:
    changed = bytearray(GOOD[0])
    changed[bit // 8] ^= 1 << bit % 8

    assert refused_or([bytes(changed), *GOOD[1:3]], 3) != SECRET


@pytest.mark.parametrize("value", [2**256, PRIME - 1])
def test_a_value_that_is_no_secret_is_refused(value: int) -> None:
    with pytest.raises(BadShare):
        combine([share(1, value)], threshold=1)


def test_the_largest_value_that_is_a_secret_is_taken() -> None:
    assert combine([share(1, 2**256 - 1)], threshold=1) == b"\xff" * 32


def test_exactly_the_threshold_s_number_of_shares_is_used() -> None:
    """The ones with the smallest x: a lie in another is not looked at."""
    lie = share(5, 12345)

    assert combine([lie, GOOD[2], GOOD[0], GOOD[1]], threshold=3) == SECRET


@pytest.mark.parametrize(
    ("size", "threshold", "holders"),
    [(31, 1, 1), (33, 1, 1), (0, 1, 1), (32, 0, 1), (32, 2, 1), (32, -1, 3), (32, 1, 65536)],
)
def test_what_cannot_be_shared_is_a_programmer_s_error(
    size: int, threshold: int, holders: int
) -> None:
    with pytest.raises(ValueError, match=r"secret|share"):
        split(bytes(size), threshold=threshold, holders=holders)


@pytest.mark.parametrize("threshold", [0, -1, 65536])
def test_a_threshold_out_of_range_is_a_programmer_s_error(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        combine(GOOD, threshold=threshold)


def test_an_error_shows_no_share() -> None:
    with pytest.raises(BadShare) as caught:
        combine([GOOD[0], GOOD[1][:-1]], threshold=2)

    assert GOOD[0].hex() not in repr(caught.value)
    assert str(int.from_bytes(GOOD[0][2:], "big")) not in repr(caught.value)


def refused_or(shares: list[bytes], threshold: int) -> bytes | None:
    try:
        return combine(shares, threshold=threshold)
    except BadShare:
        return None
