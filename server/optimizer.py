"""The server's optimizer: Flower's strategies, given the mean of a round as if it were one reply.

A strategy that works on a mean cannot tell the difference, so it works on a secure sum too. One
that compares single updates is given each as a reply of its own. Tested on flwr 1.41; private of
Flower here: `Run`, which its abstract grid asks for, and where the strategies keep their moments.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.supercore.run import Run
from numpy.typing import NDArray

from fedward.privacy.contribution import Total
from fedward.study.aggregation import (
    Aggregation,
    Bulyan,
    Ditto,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedBN,
    FedMedian,
    FedPer,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    QFedAvg,
    Scaffold,
)
from fedward.study.errors import FederationError
from fedward.study.messages import Vector

_MODEL = "model"
_MOMENTUM, _FIRST, _SECOND, _LAST = "momentum", "first_moment", "second_moment", "last_model"

_ADAPTIVE = (flower.FedAdagrad, flower.FedAdam, flower.FedYogi)

State = Mapping[str, NDArray[Any]]


class ServerOptimizer:
    """From a round's model and the mean update to the next model."""

    def __init__(self, aggregation: Aggregation) -> None:
        """Make the strategy that the study names."""
        self._strategy = _flower_strategy(aggregation)
        self._grid = _MeanOnlyGrid()

    def asked(self, model: Vector) -> Vector:
        """What hospitals are sent of a model with shape (d,); for most strategies the model."""
        return model

    def step(self, server_round: int, model: Vector, each: Sequence[Total]) -> Vector:
        """The next model, shape (d,), float32.

        Args:
            server_round: From 1.
            model: The round's model, shape (d,).
            each: The round's weighted mean update alone, or every update by itself for a strategy
                that compares them.

        Raises:
            FederationError: The strategy did not make a finite model.
        """
        models = [_moved(model, total.update) for total in each]
        if type(self._strategy) is flower.FedAvg and len(models) == 1:
            after: Vector | None = models[0]  # the mean of one model
        else:
            after = self._of_flower(server_round, model, models, each)
        if after is None or not np.isfinite(after).all():
            raise not_finite(server_round)
        return after.astype(np.float32, copy=False)

    def _of_flower(
        self, server_round: int, model: Vector, models: Sequence[Vector], each: Sequence[Total]
    ) -> Vector | None:
        """What the strategy makes of the models that the updates lead to."""
        with _without_flower_log(), np.errstate(all="ignore"):  # the result is checked later
            asked = self._strategy.configure_train(
                server_round, _record(model), ConfigRecord(), self._grid
            )
            (question,) = asked
            replies = [
                Message(_reply(moved, total.weight), reply_to=question)
                for moved, total in zip(models, each, strict=True)
            ]
            arrays, _ = self._strategy.aggregate_train(server_round, replies)
        found: Vector | None = None if arrays is None else arrays[_MODEL].numpy()
        return found

    def state(self) -> dict[str, NDArray[Any]]:
        """What the strategy remembers of earlier rounds, each shape (d,); empty for most."""
        strategy, found = self._strategy, dict[str, NDArray[Any]]()
        if isinstance(strategy, flower.FedAvgM):
            if strategy.current_arrays is not None:
                found[_LAST] = strategy.current_arrays[_MODEL].numpy()
            if strategy.momentum_vector is not None:
                (found[_MOMENTUM],) = strategy.momentum_vector
        elif isinstance(strategy, _ADAPTIVE):
            for name, moments in ((_FIRST, strategy.m_t), (_SECOND, strategy.v_t)):
                if moments:
                    found[name] = moments[_MODEL]
        return {name: np.array(array) for name, array in found.items()}

    def restore(self, state: State) -> None:
        """Remember what a strategy of the same study remembered.

        Args:
            state: From `state`.
        """
        strategy = self._strategy
        if isinstance(strategy, flower.FedAvgM):
            last, momentum = state.get(_LAST), state.get(_MOMENTUM)
            strategy.current_arrays = None if last is None else _record(last)
            strategy.momentum_vector = None if momentum is None else [np.array(momentum)]
        elif isinstance(strategy, _ADAPTIVE):
            first, second = state.get(_FIRST), state.get(_SECOND)
            strategy.m_t = None if first is None else {_MODEL: np.array(first)}
            strategy.v_t = None if second is None else {_MODEL: np.array(second)}


def not_finite(server_round: int) -> FederationError:
    """The error for a step that came to no numbers."""
    return FederationError(
        f"round {server_round}: the server's optimizer made no finite model",
        todo="lower [aggregation] server_learning_rate or [training] learning_rate",
    )


@contextmanager
def _without_flower_log() -> Iterator[None]:
    """A strategy would log that one node took part: the mean."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _moved(model: Vector, update: NDArray[Any]) -> Vector:
    with np.errstate(over="ignore"):
        moved: Vector = (model + update).astype(np.float32)
    return moved


def _reply(model: Vector, weight: float) -> RecordDict:
    return RecordDict({"arrays": _record(model), "metrics": MetricRecord({"num-examples": weight})})


def _record(model: NDArray[Any]) -> ArrayRecord:
    return ArrayRecord({_MODEL: Array(model)})


def _flower_strategy(aggregation: Aggregation) -> flower.FedAvg:
    alone: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1}
    match aggregation:
        case FedAvg() | FedProx() | QFedAvg() | Scaffold() | FedBN() | FedPer() | Ditto():
            # beside the mean they differ elsewhere: in the hospitals, and in what travels
            return flower.FedAvg(**alone)
        case FedAvgM():
            return flower.FedAvgM(
                **alone,
                server_learning_rate=aggregation.server_learning_rate,
                server_momentum=aggregation.server_momentum,
            )
        case FedAdagrad():
            return flower.FedAdagrad(
                **alone, eta=aggregation.server_learning_rate, tau=aggregation.tau
            )
        case FedAdam() | FedYogi():
            kind = flower.FedAdam if isinstance(aggregation, FedAdam) else flower.FedYogi
            return kind(
                **alone,
                eta=aggregation.server_learning_rate,
                tau=aggregation.tau,
                beta_1=aggregation.beta_1,
                beta_2=aggregation.beta_2,
            )
        case FedMedian():
            return flower.FedMedian(**alone)
        case FedTrimmedAvg():
            return flower.FedTrimmedAvg(**alone, beta=aggregation.trimmed)
        case Krum():
            return flower.MultiKrum(
                **alone,
                num_malicious_nodes=aggregation.malicious,
                num_nodes_to_select=aggregation.selected,
            )
        case Bulyan():
            return flower.Bulyan(**alone, num_malicious_nodes=aggregation.malicious)


class _MeanOnlyGrid(Grid):
    """The grid that a strategy sees: one node, which is the round's mean."""

    def get_node_ids(self) -> Iterable[int]:
        """The one node."""
        return [1]

    def set_run(self, run: Run) -> None:
        """Nothing runs here."""

    @property
    def run(self) -> Run:
        """Nothing runs here."""
        return Run.create_empty(run_id=0)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as Flower makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Nothing is sent."""
        return []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Nothing comes."""
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Nothing is sent, nothing comes."""
        return []
