"""SCAFFOLD: local steps corrected for what a hospital's records want otherwise than the others'."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fedward.client.algorithms.any_algorithm import Algorithm, Work
from fedward.client.algorithms.correction import Shift, weights_of
from fedward.client.own_state import OwnState
from fedward.models import flat
from fedward.study.errors import DataError
from fedward.study.messages import EvaluateRequest, TrainRequest, Vector

_CONTROL = "control"


class Scaffold(Algorithm):
    """Stochastic controlled averaging (Karimireddy et al. 2020, algorithm 1, option II).

        y <- y - eta (g_i(y) - c_i + c)                  K local steps from y = x
        c_i+ = c_i - c + (x - y) / (K eta)
        sent: y - x and c_i+ - c_i, in one vector
        the aggregator: x <- x + eta_g mean(y - x), c <- c + |S|/N mean(c_i+ - c_i)

    c_i stays here. The aggregator's c is the mean of all c_i only while both sides agree on which
    of a hospital's rounds counted; so the request says it, and the round begins from that c_i.
    With privacy on c_i is computed from noised gradients alone: post-processing, which is free.
    """

    def __init__(self, own: OwnState, hospital: str, rate: Callable[[int], float]) -> None:
        """Take what is kept here.

        Args:
            own: Where c_i is kept.
            hospital: This hospital's name.
            rate: The learning rate (eta) of a round.
        """
        self._own = own
        self._hospital = hospital
        self._rate = rate

    def receive(self, model: nn.Module, request: TrainRequest | EvaluateRequest) -> None:
        """Put x into the model; it comes alone where it is only judged.

        Should nothing of a round leave but that it failed, it counts, and c_i is what it was: so
        that is kept before anything else can fail.
        """
        if isinstance(request, TrainRequest):
            own = self._control(request, len(request.model) // 2)
            self._own.write(request.round, {_CONTROL: own}, base=self._base(request))
        flat.load(model, request.model[: len(flat.flatten(model))])

    def train(self, model: nn.Module, request: TrainRequest, work: Work) -> Vector:
        """Train with c - c_i added to each gradient; y - x and the change of c_i."""
        x, c = np.split(request.model, 2)
        own = self._control(request, len(x))
        steps = work.train(model, Shift(_tensors(model, c - own)))
        way = (x - flat.flatten(model)).astype(np.float64)
        mean = way / (max(steps, 1) * self._rate(request.round)) * _trainable(model)
        change = (mean - c).astype(np.float32) if steps else np.zeros_like(c)
        return np.concatenate([-way.astype(np.float32), change])

    def left(self, request: TrainRequest, update: Vector) -> None:
        """Keep c_i as the others know it: changed by what left, also where that was clipped."""
        own = self._control(request, len(update) // 2)
        change = np.split(update, 2)[1]
        self._own.write(request.round, {_CONTROL: own + change}, base=self._base(request))

    def _base(self, request: TrainRequest) -> int:
        return request.counted.get(self._hospital, 0)

    def _control(self, request: TrainRequest, size: int) -> Vector:
        """c_i after the last round of this hospital that counted; 0 before the first."""
        base = self._base(request)
        if not base:
            return np.zeros(size, dtype=np.float32)
        kept = self._own.of(base)
        if kept is None or kept[_CONTROL].shape != (size,):
            raise DataError(
                f"this hospital's control variate of round {base} is gone, without which its "
                "updates would lead all others astray",
                todo="restore its folder of state, or begin a new run",
            )
        return kept[_CONTROL]


def _tensors(model: nn.Module, vector: Vector) -> list[Tensor]:
    """A flat vector as one tensor for each parameter."""
    shaped = copy.deepcopy(model)
    flat.load(shaped, vector)
    return weights_of(shaped)


def _trainable(model: nn.Module) -> Vector:
    """1 where the flat vector has a trainable weight, 0 where a frozen one or a buffer."""
    marked = copy.deepcopy(model)
    with torch.no_grad():
        for buffer in marked.buffers():
            buffer.zero_()
        for parameter in marked.parameters():
            parameter.fill_(float(parameter.requires_grad))
    return flat.flatten(marked)
