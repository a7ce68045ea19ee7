"""The server's part of a study that makes images: the generator learns between rounds.

Augenstein et al. 2020, algorithm 1: after the hospitals' updates have moved the discriminator, the
server takes steps with the generator against it. Codes are drawn from the run's seed and the round;
no record is needed, so a private discriminator gives a private generator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from fedward.models import flat, gan
from fedward.models.registry import build
from fedward.privacy.contribution import Total
from fedward.server.optimizer import ServerOptimizer, State
from fedward.study.errors import FederationError
from fedward.study.messages import Vector
from fedward.study.study import Study

_FIRST, _SECOND, _STEPS = "generator_first", "generator_second", "generator_steps"
_BETAS = (0.5, 0.999)  # Radford et al. 2016: with 0.9 the two networks swing


class GeneratorOptimizer(ServerOptimizer):
    """The study's strategy for the discriminator, and then steps of the generator."""

    def __init__(self, study: Study, *, seed: int) -> None:
        """Make the strategy; networks are made when they are needed.

        Args:
            study: Settled.
            seed: Of the codes that pictures are made from, together with the round.
        """
        super().__init__(study.aggregation)
        self._study, self._seed = study, seed
        self._settings = gan.Settings.model_validate(study.model.settings)

    def step(self, server_round: int, model: Vector, each: Sequence[Total]) -> Vector:
        """The next model, shape (d,), float32.

        Whatever hospitals say of the generator's weights is not used.

        Raises:
            FederationError: The strategy or the generator's steps made no finite model.
        """
        network = self._network
        flat.load(network, model)
        kept = {name: part.state_dict() for name, part in self._generators()}
        kept = copy.deepcopy(kept)
        flat.load(network, super().step(server_round, model, each))
        for name, part in self._generators():
            part.load_state_dict(kept[name])
        with torch.random.fork_rng(devices=[]):
            source = np.random.SeedSequence([self._seed, server_round])
            torch.manual_seed(int(source.generate_state(1, np.uint64)[0] >> 1))
            self._train_generator()
        self._take_into_mean(server_round)
        after = flat.flatten(network)
        if not np.isfinite(after).all():
            raise FederationError(
                f"round {server_round}: the generator's steps made no finite model",
                todo="lower [model] generator_learning_rate",
            )
        return after

    def state(self) -> dict[str, NDArray[Any]]:
        """What the strategy remembers, and the generator's optimizer."""
        found = super().state()
        moments = [self._optimizer.state[parameter] for parameter in self._trained]
        if not moments[0]:
            return found
        for name, key in ((_FIRST, "exp_avg"), (_SECOND, "exp_avg_sq")):
            found[name] = torch.cat([each[key].flatten() for each in moments]).numpy().copy()
        return found | {_STEPS: np.array([int(moments[0]["step"])])}

    def restore(self, state: State) -> None:
        """Remember what an optimizer of the same study remembered.

        Args:
            state: From `state`.
        """
        super().restore(state)
        if _STEPS not in state:
            return
        sizes = [parameter.numel() for parameter in self._trained]
        first, second = (torch.tensor(state[name]).split(sizes) for name in (_FIRST, _SECOND))
        for parameter, one, two in zip(self._trained, first, second, strict=True):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(state[_STEPS][0])),
                "exp_avg": one.clone().view_as(parameter),
                "exp_avg_sq": two.clone().view_as(parameter),
            }

    def _train_generator(self) -> None:
        """Steps of -log D(G(code)), the loss that does not vanish (Goodfellow et al. 2014)."""
        network = self._network
        codes = network.codes
        beside = torch.empty(self._settings.generator_batch, 1)
        for _ in range(self._settings.generator_steps):
            told, kinds = codes(beside)
            logits: Tensor = network.discriminator(network.generator(told, kinds))
            self._optimizer.zero_grad()
            functional.softplus(-logits.gather(1, kinds.unsqueeze(1))).mean().backward()
            self._optimizer.step()

    @torch.no_grad()
    def _take_into_mean(self, server_round: int) -> None:
        """A plain mean over the first rounds, until the study's share is reached."""
        keeps = min(self._settings.average, 1 - 1 / server_round)
        means = self._network.mean_generator.parameters()
        for mean, new in zip(means, self._trained, strict=True):
            mean.lerp_(new, 1 - keeps)

    def _generators(self) -> list[tuple[str, torch.nn.Module]]:
        network = self._network
        return [("now", network.generator), ("mean", network.mean_generator)]

    @cached_property
    def _network(self) -> gan.Gan:
        """Both networks, the generator alone to be trained."""
        network = build(self._study, seed=0)
        if not isinstance(network, gan.Gan):
            raise TypeError(f"a {type(network).__name__} makes no images")
        network.discriminator.requires_grad_(requires_grad=False)
        network.generator.requires_grad_(requires_grad=True)
        return network.train()

    @cached_property
    def _trained(self) -> list[torch.nn.Parameter]:
        return list(self._network.generator.parameters())

    @cached_property
    def _optimizer(self) -> Adam:
        return Adam(self._trained, lr=self._settings.generator_learning_rate, betas=_BETAS)
