"""Dividing one data set among hospitals. A patient's records always stay together.

Every rule answers with the hospital's number for each patient, so that none can split a patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.study.errors import OptionError
from fedward.study.simulation import Simulation

Owners = NDArray[np.int64]
_TRIES = 1000


def split(
    rule: Simulation,
    *,
    hospitals: int,
    labels: NDArray[np.int64],
    patients: NDArray[np.int64],
    rng: np.random.Generator,
) -> Owners:
    """The hospital of each record, shape (n,), in [0, hospitals).

    Args:
        rule: The study's `[simulation]`.
        hospitals: How many.
        labels: Class number of each record, shape (n,).
        patients: Patient of each record, shape (n,).
        rng: Source of chance.

    Raises:
        OptionError: The data set cannot be divided so.
    """
    everyone, first = np.unique(patients, return_index=True)
    if len(everyone) < hospitals:
        raise OptionError(
            f"{len(everyone)} patients cannot be divided among {hospitals} hospitals",
            todo="ask for fewer hospitals",
        )
    match rule.split:
        case "iid" | "patients":
            owners = by_shares(len(everyone), [1.0] * hospitals, rng)
        case "quantity":
            owners = by_shares(len(everyone), _shares(rule, hospitals), rng)
        case "dirichlet":
            owners = by_dirichlet(labels[first], hospitals, rule.alpha, rng)
        case _:
            raise OptionError(f"split {rule.split} needs no drawing")
    of_record: Owners = owners[np.searchsorted(everyone, patients)]
    return of_record


def by_shares(patients: int, shares: Sequence[float], rng: np.random.Generator) -> Owners:
    """Patients in random order, cut into pieces of these relative sizes; no piece is empty."""
    ends = np.cumsum(shares) / sum(shares) * patients
    sizes = np.diff(np.round(ends).astype(int), prepend=0)
    while sizes.min() == 0:
        sizes[sizes.argmin()] += 1
        sizes[sizes.argmax()] -= 1
    owners: Owners = rng.permutation(np.repeat(np.arange(len(shares)), sizes))
    return owners


def by_dirichlet(
    labels: NDArray[np.int64], hospitals: int, alpha: float, rng: np.random.Generator
) -> Owners:
    """Label skew: each class is dealt out in proportions drawn from Dirichlet(alpha).

    Hsu, Qi and Brown 2019 (arXiv 1909.06335), with the proportions drawn a class, as Li et al. 2022
    (arXiv 2102.02079) do. Drawn anew while a hospital would have fewer than ten patients, or fewer
    than a fortieth of an equal share where that is less.
    """
    fewest = min(10, max(1, len(labels) // (40 * hospitals)))
    for _ in range(_TRIES):
        owners = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            ends = np.cumsum(rng.dirichlet([alpha] * hospitals)) * len(members)
            pieces = np.split(members, np.round(ends[:-1]).astype(int))
            for hospital, piece in enumerate(pieces):
                owners[piece] = hospital
        if np.bincount(owners, minlength=hospitals).min() >= fewest:
            return owners
    raise OptionError(
        f"no Dirichlet({alpha:g}) draw gives each of {hospitals} hospitals {fewest} patients",
        todo="raise [simulation] alpha or ask for fewer hospitals",
    )


def by_site(sites: NDArray[np.str_]) -> tuple[list[str], Owners]:
    """Names of the sites, sorted, and the site of each record."""
    names, owners = np.unique(sites, return_inverse=True)
    return [str(name) for name in names], owners.reshape(-1).astype(np.int64)


def _shares(rule: Simulation, hospitals: int) -> Sequence[float]:
    shares = rule.shares or ()
    if len(shares) != hospitals:
        raise OptionError(
            f"{len(shares)} shares for {hospitals} hospitals",
            todo="give as many [simulation] shares as hospitals",
        )
    return shares
