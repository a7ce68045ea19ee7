"""What protects the patients in training: nothing beyond keeping records at home, or DP-SGD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen


class NoPrivacy(Frozen):
    """Records stay at home, but the model may remember them."""

    mode: Literal["off"] = "off"


class LocalPrivacy(Frozen):
    """Every hospital adds the full noise to its own DP-SGD (Abadi et al. 2016, algorithm 1).

    What is protected is everything that one patient has at one hospital.

    Attributes:
        epsilon: Budget of the whole run at each hospital, from which the noise is derived; more
            than 50 would promise nothing.
        noise_multiplier: The noise itself (sigma), instead of a budget.
        delta: Probability with which the promise may fail; below 1 over the number of patients.
        clipping_norm: Largest L2 norm that one patient's gradient may have (C).
        clipping: How a longer gradient is brought to it: `flat` shortens it, `per_layer` shortens
            each layer's part by itself, `automatic` gives nearly all of them the same length.
        sampling_rate: Probability with which each patient is in a step (q), Poisson.
        patients_per_step: Patients in a step on average, instead of a rate: each hospital's rate
            is then this over the patients that it declares, and at most 1.
        records_per_patient: Most records that a patient brings to a step (K), drawn at random.
        accountant: Which of Opacus' accountants composes the steps.
        statistics_noise_multiplier: Noise of the measured scaling constants, where the study
            measures them: in units of the largest norm of what one patient adds.
        evaluation_noise_multiplier: Noise of every evaluation (each monitored round, and each
            judging of the final model), in the same units; none if left out: evaluation then
            leaves as sums without noise.
    """

    mode: Literal["local"]
    epsilon: Annotated[float, Field(gt=0, le=50)] | None = None
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)]
    clipping_norm: Annotated[float, Field(gt=0)] = 1.0
    clipping: Literal["flat", "per_layer", "automatic"] = "flat"
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    patients_per_step: Annotated[int, Field(ge=1)] | None = None
    records_per_patient: Annotated[int, Field(ge=1, le=10_000)] = 1
    accountant: Literal["prv", "rdp"] = "prv"
    statistics_noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None = None
    evaluation_noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _one_budget_and_one_rate(self) -> LocalPrivacy:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("exactly one of epsilon and noise_multiplier")
        if (self.sampling_rate is None) == (self.patients_per_step is None):
            raise ValueError("exactly one of sampling_rate and patients_per_step")
        return self

    def rate_of(self, declared: int) -> float:
        """The sampling rate of a hospital that declares so many patients."""
        if self.sampling_rate is not None:
            return self.sampling_rate
        return min(1.0, float(self.patients_per_step or 1) / declared)

    def divisor_of(self, declared: int) -> float:
        """What the noisy sum of such a hospital is divided by: public, whatever its records are."""
        return max(1.0, self.rate_of(declared) * declared)


Privacy = NoPrivacy | LocalPrivacy
