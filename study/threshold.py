"""How many hospitals it takes to open a sum."""

from __future__ import annotations


def shares_needed(*, hospitals: int, colluding: int, min_honest: int) -> int:
    """Shares that rebuild a self mask, and the fewest survivors that anybody unmasks for.

    With t = floor((n + c + k - 1) / 2) + 1 the honest hospitals cannot be told two stories that
    both gather t shares, and whoever can be unmasked stays tied to at least k honest ones.

    Args:
        hospitals: n, those invited to the round; at least 1.
        colluding: c, those that may side with the aggregator; 0 <= c <= n.
        min_honest: k, the fewest honest hospitals that a revealed sum may contain; at least 2.

    Raises:
        ValueError: An argument is out of range, or t is more than n.
    """
    n, c, k = hospitals, colluding, min_honest
    if n < 1 or not 0 <= c <= n or k < 2:
        raise ValueError(f"n >= 1, 0 <= c <= n and k >= 2 are wanted, not n={n}, c={c}, k={k}")
    t = (n + c + k - 1) // 2 + 1
    if t > n:
        raise ValueError(
            f"floor(({n} hospitals + {c} colluding + {k} honest - 1) / 2) + 1 = {t} shares would "
            f"be needed, and there are {n} hospitals; at least {c + k} are needed"
        )
    return t
