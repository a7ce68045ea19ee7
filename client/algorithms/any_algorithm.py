"""What a federated algorithm is to a hospital, and the simplest one: FedAvg."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from fedward.client.algorithms.correction import Correction, NoCorrection
from fedward.models import flat
from fedward.study.messages import EvaluateRequest, TrainRequest, Vector
from fedward.study.training import FineTuning


class Work(Protocol):
    """What a hospital can do with its own records in one exchange."""

    def train(self, model: nn.Module, correction: Correction) -> int:
        """Train in place for a round, as the study says; how many steps it took.

        Once in a round: with privacy on, these are the steps that were paid for.
        """

    def train_beside(self, model: nn.Module, correction: Correction) -> None:
        """Train another model in place for a round, with randomness of its own."""

    def fine_tune(self, model: nn.Module, plan: FineTuning) -> None:
        """Train in place as the study says of the time after the last round."""


class Algorithm:
    """FedAvg (McMahan et al. 2017, algorithm 1), and what all others have in common.

    A hospital sends w_i - w, where w is the round's model and w_i what its local steps made of it.
    """

    def receive(self, model: nn.Module, request: TrainRequest | EvaluateRequest) -> None:
        """Put what came, and what stayed here, into the model."""
        flat.load(model, request.model)

    def train(self, model: nn.Module, request: TrainRequest, work: Work) -> Vector:
        """Train a model that received the request; what is to leave, shape as the request's.

        Raises:
            TrainingError: A step failed.
            PrivacyError: The guarantee of private steps would not hold.
        """
        work.train(model, NoCorrection())
        return flat.flatten(model) - request.model

    def left(self, request: TrainRequest, update: Vector) -> None:
        """Told what leaves, after the study's clipping; it is on disk here before it does."""

    def judged(self, model: nn.Module, request: EvaluateRequest, work: Work) -> list[nn.Module]:
        """The models to judge: the one that received the request, and a personal one beside it."""
        del request, work
        return [model]
