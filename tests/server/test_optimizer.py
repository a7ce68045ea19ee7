"""The server's optimizers against the papers' formulas, written anew here in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedward.privacy.contribution import Total
from fedward.server.optimizer import ServerOptimizer
from fedward.study.aggregation import (
    Aggregation,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
)
from fedward.study.errors import FederationError
from fedward.study.messages import Vector

Doubles = NDArray[np.float64]
SMALL = st.floats(-100, 100, width=32)
START = np.array([0.5, -1.0, 0.01, 0.0], dtype=np.float32)
# Large and tiny, with a change of sign, a zero and values near every tau below. The model whose
# updates are tiny is small too: what single precision leaves of them is then exact enough.
UPDATES = [
    np.array([0.3, -0.02, 1.5e-3, 0.0]),
    np.array([-0.1, -0.05, 2e-3, 0.5]),
    np.array([0.2, 0.4, -7e-4, -0.25]),
]


def total(update: Doubles, weight: float = 10.0) -> Total:
    return Total(update=update, weight=weight, metrics=np.zeros(1))


def run(aggregation: Aggregation, updates: Sequence[Doubles]) -> list[Vector]:
    """The model after each round."""
    optimizer = ServerOptimizer(aggregation)
    models = [START]
    for number, update in enumerate(updates, start=1):
        models.append(optimizer.step(number, models[-1], [total(update)]))
    return models[1:]


def hsu_2019(updates: Sequence[Doubles], *, rate: float, momentum: float) -> list[Doubles]:
    """FedAvgM (Hsu, Qi and Brown 2019, section 4.3): v <- beta v + dw; w <- w - v."""
    x, velocity, path = START.astype(np.float64), np.zeros(len(START)), []
    for update in updates:
        velocity = momentum * velocity + -update
        x = x - rate * velocity
        path.append(x)
    return path


def flowers_adaptive(
    updates: Sequence[Doubles],
    second: Callable[[Doubles, Doubles], Doubles],
    *,
    rate: float,
    tau: float,
    beta_1: float,
    correction: Callable[[int], float] = lambda number: 1.0,
) -> list[Doubles]:
    """Reddi et al. 2021, algorithm 2, as Flower documents its own: v starts at 0."""
    x = START.astype(np.float64)
    m, v = np.zeros(len(x)), np.zeros(len(x))
    path = []
    for number, delta in enumerate(updates, start=1):
        m = beta_1 * m + (1 - beta_1) * delta
        v = second(v, delta**2)
        x = x + rate * correction(number) * m / (np.sqrt(v) + tau)
        path.append(x)
    return path


def assert_same_path(found: Sequence[Vector], wanted: Sequence[Doubles]) -> None:
    assert len(found) == len(wanted) == 3
    for ours, papers in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, papers, rtol=1e-5, atol=1e-6)


@given(
    pair=st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            arrays(np.float32, n, elements=SMALL), arrays(np.float64, n, elements=SMALL)
        )
    ),
    weight=st.floats(0.5, 1e6),
)
@settings(deadline=None)
def test_fedavg_is_the_model_plus_the_mean_update(
    pair: tuple[Vector, Doubles], weight: float
) -> None:
    model, update = pair
    after = ServerOptimizer(FedAvg()).step(1, model, [total(update, weight)])

    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, (model.astype(np.float64) + update).astype(np.float32))


def test_fedavg_remembers_nothing() -> None:
    first, *_ = run(FedAvg(), UPDATES[2:])
    optimizer = ServerOptimizer(FedAvg())
    optimizer.step(1, START, [total(UPDATES[0])])

    np.testing.assert_array_equal(optimizer.step(2, START, [total(UPDATES[2])]), first)


def test_fedprox_is_fedavg_at_the_server() -> None:
    prox = FedProx(strategy="fedprox", proximal_mu=0.7)

    for ours, plain in zip(run(prox, UPDATES), run(FedAvg(), UPDATES), strict=True):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_fedavgm_follows_hsu_2019(rate: float, momentum: float) -> None:
    chosen = FedAvgM(strategy="fedavgm", server_learning_rate=rate, server_momentum=momentum)

    assert_same_path(run(chosen, UPDATES), hsu_2019(UPDATES, rate=rate, momentum=momentum))


@pytest.mark.parametrize("tau", [1e-3, 0.1])
def test_fedadagrad_follows_reddi_2021_as_flower_has_it(tau: float) -> None:
    chosen = FedAdagrad(strategy="fedadagrad", server_learning_rate=0.2, tau=tau)
    wanted = flowers_adaptive(UPDATES, lambda v, d: v + d, rate=0.2, tau=tau, beta_1=0.0)

    assert_same_path(run(chosen, UPDATES), wanted)


@pytest.mark.parametrize("tau", [1e-3, 0.1])
@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.99), (0.5, 0.6)])
def test_fedadam_follows_reddi_2021_as_flower_has_it(
    tau: float, beta_1: float, beta_2: float
) -> None:
    chosen = FedAdam(
        strategy="fedadam", server_learning_rate=0.2, tau=tau, beta_1=beta_1, beta_2=beta_2
    )
    wanted = flowers_adaptive(
        UPDATES,
        lambda v, d: beta_2 * v + (1 - beta_2) * d,
        rate=0.2,
        tau=tau,
        beta_1=beta_1,
        correction=lambda n: float(np.sqrt(1 - beta_2 ** (n + 1)) / (1 - beta_1 ** (n + 1))),
    )

    assert_same_path(run(chosen, UPDATES), wanted)


@pytest.mark.parametrize("tau", [1e-3, 0.1])
@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.99), (0.5, 0.6)])
def test_fedyogi_follows_reddi_2021_as_flower_has_it(
    tau: float, beta_1: float, beta_2: float
) -> None:
    chosen = FedYogi(
        strategy="fedyogi", server_learning_rate=0.2, tau=tau, beta_1=beta_1, beta_2=beta_2
    )
    wanted = flowers_adaptive(
        UPDATES,
        lambda v, d: v - (1 - beta_2) * d * np.sign(v - d),
        rate=0.2,
        tau=tau,
        beta_1=beta_1,
    )

    assert_same_path(run(chosen, UPDATES), wanted)


@pytest.mark.parametrize(
    "aggregation",
    [
        FedAvg(),
        FedAvgM(strategy="fedavgm"),
        FedAdagrad(strategy="fedadagrad"),
        FedAdam(strategy="fedadam"),
        FedYogi(strategy="fedyogi"),
    ],
    ids=lambda a: a.strategy,
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_model_that_is_not_finite_is_refused(aggregation: Aggregation, value: float) -> None:
    optimizer = ServerOptimizer(aggregation)
    optimizer.step(1, START, [total(UPDATES[0])])

    with pytest.raises(FederationError, match=r"round 2.*no finite model.*learning_rate"):
        optimizer.step(2, START, [total(np.array([0.1, value, 0.1, 0.1]))])


def test_a_step_leaves_the_model_that_it_was_given_alone() -> None:
    given_model = START.copy()
    ServerOptimizer(FedAdam(strategy="fedadam")).step(1, given_model, [total(UPDATES[0])])

    np.testing.assert_array_equal(given_model, START)
