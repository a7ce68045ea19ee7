"""How a hospital trains in one round: the contract's table `training`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.early_stopping import EarlyStopping
from fedward.study.frozen import Frozen


class FineTuning(Frozen):
    """What each hospital does with the final model at home.

    Attributes:
        steps: Steps on its own training records.
        learning_rate: Step size of all of them.
    """

    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    learning_rate: Annotated[float, Field(gt=0)]


class Training(Frozen):
    """What a hospital does with its own records in one round.

    Attributes:
        rounds: Rounds of the whole run.
        local_epochs: Passes over the hospital's records in one round. With privacy on, a pass is
            1 over the sampling rate steps.
        local_steps: Steps in one round, instead of passes.
        batch_size: Records in a step, or `all`. With privacy on the sampling rate takes its place.
        optimizer: The hospital's optimizer; its state starts anew in each round.
        learning_rate: Step size of the first round.
        schedule: `constant`, or `cosine`: the step size falls over the rounds, from the first's to
            nearly nothing, along half a cosine (Loshchilov and Hutter 2017, eq. 5).
        momentum: Momentum of `sgd`.
        weight_decay: L2 penalty on matrices and kernels, not on biases (decoupled in `adamw`).
        fine_tuning: After the last round, each hospital's own further training; none if left out.
        early_stopping: When training ends before the last round; never if left out.
    """

    rounds: Annotated[int, Field(ge=1, le=100_000)]
    local_epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    local_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | Literal["all"] = 32
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    fine_tuning: FineTuning | None = None
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if (self.local_epochs is None) == (self.local_steps is None):
            raise ValueError("exactly one of local_epochs and local_steps")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum only with optimizer sgd, not {self.optimizer}")
        return self

    def learning_rate_of(self, server_round: int) -> float:
        """Step size in a round, counted from 1."""
        if self.schedule == "constant":
            return self.learning_rate
        done = (server_round - 1) / self.rounds
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
