"""The ledger's totals beside those of dp-accounting, which shares no code with Opacus."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest
from opacus.accountants import RDPAccountant

from fedward.privacy.accounting import Accountant, SampledGaussian
from fedward.privacy.ledger import EVALUATION, Ledger
from tests.privacy.charges import ONE
from tests.privacy.conftest import fast_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    dpa: Any = import_module("dp_accounting")  # it carries no types
    rdp: Any = import_module("dp_accounting.rdp")
    pld: Any = import_module("dp_accounting.pld")

SEEDS = range(50)


def history_of(seed: int) -> tuple[list[SampledGaussian], float]:
    """Rounds as hospitals have them, and a delta.

    Of an epsilon above 15 theirs says a few hundredths more: it leaves out low orders, which do not
    converge in its number of terms.
    """
    chance = Random(seed)
    history = [
        SampledGaussian(
            noise_multiplier=round(chance.uniform(0.8, 4), 2),
            sampling_rate=round(10 ** chance.uniform(-2.5, -0.7), 3),
            steps=chance.choice([1, 5, 20, 100, 400]),
        )
        for _ in range(chance.randint(1, 4))
    ]
    return history, 10 ** -chance.uniform(3, 7)


def ledger_of(history: list[SampledGaussian], folder: Path) -> Ledger:
    """Each event a round of another study, beside a data set that is no part of it."""
    ledger = Ledger(folder / "ledger")
    for number, steps in enumerate(history):
        ledger.charge(replace(ONE, study=f"study {number}", steps=steps), cap=None)
        ledger.charge(replace(ONE, study=f"aside {number}", data="other", steps=steps), cap=None)
    return ledger


def composed(accountant: Any, history: list[SampledGaussian], delta: float) -> float:  # noqa: ANN401
    """What their accountant says of the same steps."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orders that it leaves out
    for sigma, rate, steps in history:
        one = dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(sigma))
        accountant.compose(one, steps)
    return float(accountant.get_epsilon(delta))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_by_renyi_orders_both_say_the_same_within_a_hundredth(seed: int) -> None:
    history, delta = history_of(seed)
    orders = RDPAccountant.DEFAULT_ALPHAS

    with fast_folder() as folder:
        ours = ledger_of(history, folder).epsilon(data="data", delta=delta, accountant="rdp")

    assert ours == pytest.approx(composed(rdp.RdpAccountant(orders), history, delta), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_by_numbers_both_say_the_same_within_a_hundredth_and_opacus_bound(seed: int) -> None:
    """Opacus' answer is an upper bound, 0.01 above its estimate."""
    history, delta = history_of(seed)

    with fast_folder() as folder:
        ours = ledger_of(history, folder).epsilon(data="data", delta=delta, accountant="prv")
    theirs = composed(pld.PLDAccountant(value_discretization_interval=1e-3), history, delta)

    assert 0.99 * theirs <= ours <= 1.01 * theirs + 0.02


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("noise", [2.0, 5.0, 20.0])
def test_evaluations_of_everybody_beside_the_rounds_cost_what_both_say(
    noise: float, accountant: Accountant
) -> None:
    """An evaluation is a Gaussian mechanism that nobody is sampled for."""
    evaluations = SampledGaussian(noise, 1.0, 1)
    rounds = SampledGaussian(1.5, 0.1, 20)
    with fast_folder() as folder:
        ledger = Ledger(folder / "ledger")
        for number in range(1, 6):
            one = replace(ONE, round=number)
            judged = replace(one, steps=evaluations, mechanism=EVALUATION)
            ledger.charge(judged, replace(one, steps=rounds), cap=None)
        ours = ledger.epsilon(data="data", delta=1e-5, accountant=accountant)
    if accountant == "rdp":
        theirs = rdp.RdpAccountant(RDPAccountant.DEFAULT_ALPHAS)
    else:
        theirs = pld.PLDAccountant(value_discretization_interval=1e-3)
    theirs.compose(dpa.GaussianDpEvent(noise), 5)

    wanted = composed(theirs, [rounds._replace(steps=100)], 1e-5)

    if accountant == "rdp":
        assert ours == pytest.approx(wanted, rel=0.01)
    else:
        assert 0.99 * wanted <= ours <= 1.01 * wanted + 0.02
