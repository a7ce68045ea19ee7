"""Ditto: beside the global model a personal one, pulled to it."""

from __future__ import annotations

import copy

from torch import nn

from fedward.client.algorithms.any_algorithm import Algorithm, Work
from fedward.client.algorithms.correction import NoCorrection, ProximalPull, weights_of
from fedward.client.own_state import OwnState
from fedward.models import flat
from fedward.study.messages import EvaluateRequest, TrainRequest, Vector

_MODEL = "model"


class Ditto(Algorithm):
    """A personal model v_i (Li et al. 2021, ICML, algorithm 1).

        w_i <- local steps from w                                   sent: w_i - w, as in FedAvg
        v_i <- v_i - eta (grad F_i(v_i) + lambda (v_i - w))          as many steps; stays here

    Before its first round v_i is w.
    """

    def __init__(self, own: OwnState, strength: float) -> None:
        """Take where v_i is kept, and the paper's lambda, at least 0."""
        self._own = own
        self._lambda = strength

    def train(self, model: nn.Module, request: TrainRequest, work: Work) -> Vector:
        """Train both, and keep the personal model."""
        anchor = weights_of(model)
        personal, base = self._personal(model, request)
        work.train(model, NoCorrection())
        work.train_beside(personal, ProximalPull(self._lambda, anchor))
        self._own.write(request.round, {_MODEL: flat.flatten(personal)}, base=base)
        return flat.flatten(model) - request.model

    def judged(self, model: nn.Module, request: EvaluateRequest, work: Work) -> list[nn.Module]:
        """The global model, and the personal one."""
        del work
        return [model, self._personal(model, request)[0]]

    def _personal(
        self, model: nn.Module, request: TrainRequest | EvaluateRequest
    ) -> tuple[nn.Module, int]:
        """The personal model of the last round this hospital had, and that round."""
        personal, kept = copy.deepcopy(model), self._own.before(request.round)
        if kept is not None:
            flat.load(personal, kept.arrays[_MODEL])
        return personal, 0 if kept is None else kept.round
