"""What protects the patients in training: nothing beyond keeping records at home, or DP-SGD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen


class NoPrivacy(Frozen):
    """Records stay at home, but the model may remember them."""

    mode: Literal["off"] = "off"

    @property
    def steps_per_epoch(self) -> None:
        """A pass is as long as the hospital's records."""
        return


class LocalPrivacy(Frozen):
    """Every hospital adds the full noise to its own DP-SGD (Abadi et al. 2016, algorithm 1).

    Attributes:
        epsilon: Budget of the whole run at each hospital, from which the noise is derived; more
            than 50 would promise nothing.
        noise_multiplier: The noise itself (sigma), instead of a budget.
        delta: Probability with which the promise may fail; below 1 over the number of records.
        clipping_norm: Largest L2 norm that one record's gradient may have (C).
        sampling_rate: Probability with which each record is in a step (q), Poisson.
        accountant: Which of Opacus' accountants composes the steps.
    """

    mode: Literal["local"]
    epsilon: Annotated[float, Field(gt=0, le=50)] | None = None
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)]
    clipping_norm: Annotated[float, Field(gt=0)] = 1.0
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    accountant: Literal["prv", "rdp"] = "prv"

    @model_validator(mode="after")
    def _one_budget(self) -> LocalPrivacy:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("exactly one of epsilon and noise_multiplier")
        return self

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each record is sampled once on average."""
        return max(1, round(1 / self.sampling_rate))


Privacy = NoPrivacy | LocalPrivacy
