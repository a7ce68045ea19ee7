"""How many hospitals it takes to open a sum, and how likely it is that too few are left.

Up to 64 hospitals are all each other's neighbours. More stand on a ring in an order that nobody
chose, and the neighbours of each are the 32 nearest on either side (Bell et al. 2020, "Secure
single-server aggregation with (poly)logarithmic overhead"). A hospital shares masks with its
neighbours only, so what must hold, must hold in each *closed neighbourhood*: a hospital and its
neighbours. All numbers here are exact, so that every machine finds the same ones.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import comb

_COMPLETE = 64  # most hospitals that are all each other's neighbours
_REACH = 32  # neighbours on either side of the ring
_BITS = 80


def neighbourhood(hospitals: int) -> int:
    """Hospitals in a closed neighbourhood (m): everybody up to 64 hospitals, 65 above.

    Args:
        hospitals: n, those invited to the round; at least 1.
    """
    return hospitals if hospitals <= _COMPLETE else 2 * _REACH + 1


def shares_needed(*, hospitals: int, colluding: int, min_honest: int) -> int:
    """Shares that rebuild a self mask, and the fewest survivors that anybody unmasks for (t).

    Both count within a closed neighbourhood of m hospitals, of whom at most x collude:
    t = floor((m + x + k - 1) / 2) + 1. Whoever can be unmasked then stays tied to at least
    (t - x) - (m - t) >= k honest ones, itself among them. Up to 64 hospitals m = n and x = c, so
    the honest hospitals cannot even be told two stories that both gather t shares. Above, no
    number of survivors is wanted of the whole round: t near each survivor is what protects it.

    Args:
        hospitals: n, those invited to the round; at least 1.
        colluding: c, those that may side with the aggregator; 0 <= c <= n.
        min_honest: k, the fewest honest hospitals that a revealed sum may contain; at least 2.

    Raises:
        ValueError: An argument is out of range, or t is more than m.
    """
    n, c, k = hospitals, colluding, min_honest
    if n < 1 or not 0 <= c <= n or k < 2:
        raise ValueError(f"n >= 1, 0 <= c <= n and k >= 2 are wanted, not n={n}, c={c}, k={k}")
    m, x = neighbourhood(n), colluders_nearby(hospitals=n, colluding=c)
    t = (m + x + k - 1) // 2 + 1
    if t > m and n == m:
        raise ValueError(
            f"floor(({n} hospitals + {c} colluding + {k} honest - 1) / 2) + 1 = {t} shares would "
            f"be needed, and there are {n} hospitals; at least {c + k} are needed"
        )
    if t > m:
        raise ValueError(
            f"of {c} colluding among {n} hospitals, {x} may stand in one neighbourhood of {m}: "
            f"floor(({m} neighbours + {x} colluding + {k} honest - 1) / 2) + 1 = {t} shares would "
            f"be needed, and there are {m} neighbours; at most {m - k} colluding may stand there"
        )
    return t


@cache
def colluders_nearby(*, hospitals: int, colluding: int, bits: int = _BITS) -> int:
    """Most colluders that a closed neighbourhood of an honest hospital holds (x), nearly surely.

    The others in it are drawn without replacement: m - 1 of n - 1, among them c colluders. The
    number is the smallest x with n * P(more than x colluders) <= 2**-bits, a union bound over all
    hospitals. An aggregator can try orders off line (other hospitals, other keys of its colluders,
    other rounds) until one suits it: after T tries it has found one with probability at most
    T * 2**-bits. Where x = c, as always up to 64 hospitals, nothing is left to chance.

    Args:
        hospitals: n, at least 1.
        colluding: c, 0 <= c <= n.
        bits: How unlikely more must be.
    """
    others, places = hospitals - 1, neighbourhood(hospitals) - 1
    if places == others:
        return colluding
    c = min(colluding, others)  # of an honest hospital
    unlikely, x = 0, min(c, places)
    while x > 0:
        unlikely += comb(c, x) * comb(others - c, places - x)
        if (hospitals * unlikely) << bits > comb(others, places):
            break
        x -= 1
    return x


def chance_of_too_few(*, hospitals: int, threshold: int, dropping: float) -> float:
    """Upper bound for the probability that an honest attempt fails because too many drop out.

    It fails when nobody survives, or a survivor with fewer than t in its closed neighbourhood. Each
    hospital drops out before it answers, independently of the others. Up to 64 hospitals the number
    is exact; above it is n * P(fewer than t - 1 of the 64 neighbours are left), a union bound.

    Args:
        hospitals: n, at least 1.
        threshold: t, from `shares_needed`.
        dropping: Probability that a hospital drops out, 0 to 1.

    Returns:
        0 to 1.

    Raises:
        ValueError: The probability is none.
    """
    if not 0 <= dropping <= 1:
        raise ValueError(f"a probability is wanted, not {dropping}")
    left = 1 - Fraction(dropping)
    m = neighbourhood(hospitals)
    if m == hospitals:
        return float(_at_most(threshold - 1, of=m, chance=left))
    alone = _at_most(threshold - 2, of=m - 1, chance=left)
    return float(min(Fraction(1), hospitals * alone))


def _at_most(number: int, *, of: int, chance: Fraction) -> Fraction:
    """P(X <= number) for X binomial."""
    one, all_ = chance.numerator, chance.denominator
    ways = (comb(of, i) * one**i * (all_ - one) ** (of - i) for i in range(number + 1))
    return Fraction(sum(ways), all_**of)
