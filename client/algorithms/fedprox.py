"""FedProx: local steps that stay near the round's model."""

from __future__ import annotations

from torch import nn

from fedward.client.algorithms.any_algorithm import Algorithm, Work
from fedward.client.algorithms.correction import ProximalPull, weights_of
from fedward.models import flat
from fedward.study.messages import TrainRequest, Vector


class FedProx(Algorithm):
    """Local loss F_i(w) + mu/2 |w - w_t|^2 (Li et al. 2020, FedProx, equation 2)."""

    def __init__(self, mu: float) -> None:
        """Take the paper's mu, at least 0."""
        self._mu = mu

    def train(self, model: nn.Module, request: TrainRequest, work: Work) -> Vector:
        """Train with the pull."""
        work.train(model, ProximalPull(self._mu, weights_of(model)))
        return flat.flatten(model) - request.model
