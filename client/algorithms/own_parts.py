"""FedBN and FedPer: some of a hospital's weights never leave it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedward.client.algorithms.any_algorithm import Algorithm, Work
from fedward.client.algorithms.correction import NoCorrection
from fedward.client.own_state import OwnState
from fedward.models import flat
from fedward.study.messages import EvaluateRequest, TrainRequest, Vector

_PARTS = "parts"


class OwnParts(Algorithm):
    """A model f(x; u, v_i) whose u is everybody's mean, and whose v_i is this hospital's own.

        (u_i, v_i) <- local steps from (u, v_i)
        sent: u_i - u

    FedBN (Li et al. 2021, ICLR, algorithm 1): v_i are the normalisation layers, with their running
    statistics. FedPer (Arivazhagan et al. 2019, algorithm 1): v_i are the last layers.
    Either way both are trained together; with privacy on v_i has the same noise as what leaves.
    """

    def __init__(self, own: OwnState, travelling: Sequence[str], fresh: Vector) -> None:
        """Take what is whose.

        Args:
            own: Where v_i is kept.
            travelling: Names of the entries of u.
            fresh: v_i before the first round, the same at every hospital.
        """
        self._own = own
        self._travelling = frozenset(travelling)
        self._fresh = fresh

    def receive(self, model: nn.Module, request: TrainRequest | EvaluateRequest) -> None:
        """Put u, and v_i as this hospital left it in the last round it had, into the model."""
        flat.load(model, request.model, self._travelling)
        kept = self._own.before(request.round)
        flat.load(model, self._fresh if kept is None else kept.arrays[_PARTS], self._staying(model))

    def train(self, model: nn.Module, request: TrainRequest, work: Work) -> Vector:
        """Train both, and keep v_i."""
        work.train(model, NoCorrection())
        kept = self._own.before(request.round)
        parts = {_PARTS: flat.flatten(model, self._staying(model))}
        self._own.write(request.round, parts, base=0 if kept is None else kept.round)
        return flat.flatten(model, self._travelling) - request.model

    def _staying(self, model: nn.Module) -> frozenset[str]:
        return frozenset(flat.names(model)) - self._travelling
