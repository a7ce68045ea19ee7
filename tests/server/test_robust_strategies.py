"""Strategies that compare single updates, against their papers written anew in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray

from fedward.privacy.contribution import Layout, Total, trained_fairly
from fedward.privacy.plain_sum import EachApart, PlainSum, plain_vector
from fedward.server.optimizer import ServerOptimizer
from fedward.study.aggregation import (
    Aggregation,
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    QFedAvg,
)
from fedward.study.messages import Vector

Doubles = NDArray[np.float64]
MODEL = np.array([1.0, -2.0, 0.5], dtype=np.float32)
HONEST = [[0.1, 0.2, 0.3], [0.12, 0.18, 0.33], [0.09, 0.22, 0.31], [0.11, 0.21, 0.28]]
LIE = [[50.0, -50.0, 50.0]]


def updates(*rows: Sequence[float]) -> list[Total]:
    return [Total(np.array(row), 10.0, np.zeros(1)) for row in rows]


def moved(aggregation: Aggregation, each: Sequence[Total]) -> Doubles:
    """The step that the server takes."""
    after = ServerOptimizer(aggregation).step(1, MODEL, each)
    return after.astype(np.float64) - MODEL


def close(found: Doubles, wanted: Doubles) -> bool:
    return bool(np.allclose(found, wanted, atol=1e-6))


def median() -> FedMedian:
    return FedMedian(strategy="fedmedian", secure=False)


def krum(malicious: int, selected: int = 1) -> Krum:
    return Krum(strategy="krum", secure=False, malicious=malicious, selected=selected)


def test_the_median_is_taken_of_each_coordinate() -> None:
    found = moved(median(), updates([1, 5, 0], [2, -1, 0], [9, 0, 3]))

    assert close(found, np.array([2.0, 0.0, 0.0]))


def test_the_trimmed_mean_leaves_out_both_ends() -> None:
    chosen = FedTrimmedAvg(strategy="fedtrimmedavg", secure=False, trimmed=0.25)

    found = moved(chosen, updates([1, 10, 0], [2, 20, 0], [4, 0, 0], [90, -70, 1]))

    assert close(found, np.array([3.0, 5.0, 0.0]))


def test_krum_takes_the_update_with_the_nearest_neighbours() -> None:
    """Blanchard et al. 2017: the sum of squared distances to the n - f - 2 nearest."""
    rows = np.array([*HONEST, *LIE])
    scores = []
    for at, row in enumerate(rows):
        distances = sorted(((row - np.delete(rows, at, axis=0)) ** 2).sum(axis=1))
        scores.append(sum(distances[: len(rows) - 1 - 2]))

    found = moved(krum(1), updates(*rows.tolist()))

    assert close(found, rows[int(np.argmin(scores))])


def test_multi_krum_averages_the_honest() -> None:
    found = moved(krum(1, selected=4), updates(*HONEST, *LIE))

    assert close(found, np.mean(HONEST, axis=0))


def test_bulyan_stays_among_the_honest() -> None:
    honest = [*HONEST, [0.1, 0.19, 0.3], [0.1, 0.2, 0.31]]
    chosen = Bulyan(strategy="bulyan", secure=False, malicious=1)

    found = moved(chosen, updates(*honest, *LIE))

    assert np.all(found >= np.min(honest, axis=0) - 1e-6)
    assert np.all(found <= np.max(honest, axis=0) + 1e-6)


@pytest.mark.parametrize("chosen", [median(), krum(1)], ids=["median", "krum"])
def test_one_liar_moves_the_mean_and_not_a_robust_strategy(chosen: Aggregation) -> None:
    each = updates(*HONEST, *LIE)
    mean = Total(np.mean([total.update for total in each], axis=0), 50.0, np.zeros(1))

    assert np.linalg.norm(moved(FedAvg(), [mean])) > 10
    assert np.linalg.norm(moved(chosen, each)) < 1


def test_each_contribution_is_handed_over_as_it_was_sent() -> None:
    kept, summed = EachApart(Layout(2, 1)), PlainSum(Layout(2, 1))
    vector = np.array([6.0, -3.0, 3.0, 1.0, 0.0, 0.0, 7.0], dtype=np.float32)
    for running in (kept, summed):
        running.add(vector)
        running.add(vector * 2)
    vector[:] = 0  # the message is cleared after its use

    first, second = kept.each()

    assert first.update.tolist() == second.update.tolist() == [2.0, -1.0]
    assert (first.weight, second.weight, first.clipped) == (3.0, 6.0, 1)
    assert kept.total().weight == 9.0
    (mean,) = summed.each()
    assert mean.update.tolist() == [2.0, -1.0]


# --- q-FedAvg -------------------------------------------------------------------------------------


def flowers_qfedavg(locals_: Sequence[Vector], losses: Sequence[float], q: float) -> Vector:
    """What Flower's own strategy makes of the hospitals' models and losses."""
    strategy = flower.QFedAvg(client_learning_rate=0.1, q=q, min_train_nodes=1)
    strategy.current_arrays = ArrayRecord({"model": Array(MODEL)})
    question = Message(RecordDict({"config": ConfigRecord({})}), 1, "train")
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"model": Array(local)}),
                    "metrics": MetricRecord({"num-examples": 1, "train_loss": loss}),
                }
            ),
            reply_to=question,
        )
        for local, loss in zip(locals_, losses, strict=True)
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays is not None
    after: Vector = arrays["model"].numpy()
    return after


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 2.0])
def test_the_sum_of_what_hospitals_send_is_flowers_q_fedavg(q: float) -> None:
    rng = np.random.default_rng(3)
    each = [rng.normal(0, 0.1, 3).astype(np.float32) for _ in range(4)]
    losses = [0.2, 0.7, 1.4, 0.05]
    terms = QFedAvg(strategy="qfedavg", q=q, max_weight=10_000)
    running = PlainSum(Layout(3, 0))
    for update, loss in zip(each, losses, strict=True):
        running.add(plain_vector(trained_fairly(update, loss, np.zeros(0), terms, rate=0.1)))

    after = ServerOptimizer(terms).step(1, MODEL, running.each())

    wanted = flowers_qfedavg([MODEL + update for update in each], losses, q)
    assert np.allclose(after, wanted, atol=1e-6)
    assert running.total().capped == 0


def test_q_0_is_the_plain_mean_of_the_hospitals() -> None:
    terms = QFedAvg(strategy="qfedavg", q=0.0)
    running = PlainSum(Layout(3, 0))
    for row, loss in zip(HONEST, (0.0, 0.1, 5.0, 99.0), strict=True):
        update = np.array(row, dtype=np.float32)
        running.add(plain_vector(trained_fairly(update, loss, np.zeros(0), terms, rate=0.5)))

    assert close(running.total().update, np.mean(HONEST, axis=0))


def test_a_hospital_with_a_higher_loss_counts_more() -> None:
    terms = QFedAvg(strategy="qfedavg", q=1.0)
    update = np.array(HONEST[0], dtype=np.float32)
    low, high = (trained_fairly(update, loss, np.zeros(0), terms, rate=0.1) for loss in (0.1, 2.0))

    # The gradient's length weighs the same in both: 0.14 / 0.1; the rest is the loss itself.
    assert (low.weight, high.weight) == pytest.approx((0.1 + 1.4, 2.0 + 1.4), rel=1e-6)
    assert trained_fairly(update, 1e4, np.zeros(0), terms, rate=0.1).weight == terms.max_weight
