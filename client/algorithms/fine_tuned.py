"""Fine-tuning: after the last round each hospital trains the final model further, at home."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
from torch import nn

from fedward.client.algorithms.any_algorithm import Algorithm, Work
from fedward.client.own_state import OwnState
from fedward.models import flat
from fedward.study.messages import EvaluateRequest, TrainRequest, Vector
from fedward.study.training import FineTuning

_MODEL, _FROM = "model", "from"


class FineTuned(Algorithm):
    """Another algorithm, and after it w_i <- w_i - eta grad F_i(w_i) from the final model.

    As FedAvg and a few local steps come to a personalised model (Cheng, Chadha and Duchi 2021).
    It is trained once for one final model, whichever part that is judged on first.
    """

    def __init__(self, inner: Algorithm, own: OwnState, plan: FineTuning) -> None:
        """Take the algorithm of the rounds, where the fine-tuned model is kept, and the plan."""
        self._inner = inner
        self._own = own
        self._plan = plan

    def receive(self, model: nn.Module, request: TrainRequest | EvaluateRequest) -> None:
        """As the other algorithm."""
        self._inner.receive(model, request)

    def train(self, model: nn.Module, request: TrainRequest, work: Work) -> Vector:
        """As the other algorithm."""
        return self._inner.train(model, request, work)

    def left(self, request: TrainRequest, update: Vector) -> None:
        """As the other algorithm."""
        self._inner.left(request, update)

    def judged(self, model: nn.Module, request: EvaluateRequest, work: Work) -> list[nn.Module]:
        """The final model, and what this hospital made of it."""
        before = flat.flatten(model)
        digest = np.frombuffer(hashlib.sha256(before.tobytes()).digest(), dtype=np.uint8)
        kept, tuned = self._own.of(1), copy.deepcopy(model)
        if kept is not None and np.array_equal(kept[_FROM], digest):
            flat.load(tuned, kept[_MODEL])
        else:
            work.fine_tune(tuned, self._plan)
            self._own.write(1, {_MODEL: flat.flatten(tuned), _FROM: digest}, base=1)
        return [model, tuned]
