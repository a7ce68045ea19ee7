"""SCAFFOLD at the aggregator: beside the model it keeps the hospitals' common control variate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.contribution import Total
from fedward.server.optimizer import ServerOptimizer, State, not_finite
from fedward.study.aggregation import Scaffold
from fedward.study.messages import Vector

_CONTROL = "control"


class ScaffoldOptimizer(ServerOptimizer):
    """The aggregator's lines of algorithm 1 (Karimireddy et al. 2020).

        x <- x + eta_g mean(Delta y_i)
        c <- c + |S|/N mean(Delta c_i)

    |S| is the round's sum of weights, each of which is 1, so a secure sum tells it.
    """

    def __init__(self, terms: Scaffold, hospitals: int) -> None:
        """Take the study's terms, and N: all its hospitals, also those that are not invited."""
        super().__init__(terms)
        self._rate = terms.server_learning_rate
        self._hospitals = hospitals
        self._control: Vector | None = None

    def asked(self, model: Vector) -> Vector:
        """The model and the control variate, shape (2 d,)."""
        return np.concatenate([model, self._of(model)])

    def step(self, server_round: int, model: Vector, each: Sequence[Total]) -> Vector:
        """The next model, shape (d,), float32; the control variate goes on too.

        Raises:
            FederationError: They are not finite.
        """
        (total,) = each
        way, change = np.split(total.update, 2)
        with np.errstate(all="ignore"):  # the result is checked
            share = total.weight / self._hospitals
            control = (self._of(model) + share * change).astype(np.float32)
        if not np.isfinite(control).all():
            raise not_finite(server_round)
        after = super().step(server_round, model, [replace(total, update=self._rate * way)])
        self._control = control
        return after

    def state(self) -> dict[str, NDArray[Any]]:
        """The control variate, shape (d,); nothing before the first round."""
        return {} if self._control is None else {_CONTROL: self._control}

    def restore(self, state: State) -> None:
        """Go on with a control variate that was kept."""
        self._control = state.get(_CONTROL)

    def _of(self, model: Vector) -> Vector:
        return np.zeros_like(model) if self._control is None else self._control
