"""`result.json`: what a simulation found, in a form that other programs can rely on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metrics(_Entry):
    """Metrics of one model on the test records of all hospitals together.

    Those that the study's task does not have are left out of the document; what cannot be known,
    as the AUC of a class that nobody has, is null. `classes` has the metrics of each class by
    itself.
    """

    records: int
    loss: float | None
    accuracy: float | None = None
    auc: float | None = None
    average_precision: float | None = None
    f1: float | None = None
    threshold: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    precision: float | None = None
    recall: float | None = None
    brier: float | None = None
    calibration_error: float | None = None
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None
    concordance: float | None = None
    concordance_inside: float | None = None
    events: int | None = None
    dice: float | None = None
    error: float | None = None
    error_median: float | None = None
    error_95: float | None = None
    distance: float | None = None
    classes: dict[str, dict[str, float | None]] | None = None

    @model_serializer(mode="wrap")
    def _of_the_task(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in whole(self).items() if key in self.model_fields_set}


class AllMetrics(_Entry):
    """The federated model beside the pooled one and each hospital's own.

    Attributes:
        federated: Of the final model, with each hospital's own parts where some do not travel.
        personal: Of the hospitals' personal models, each on its own test records; null without.
        pooled: Of one model that was trained on everybody's records.
        local: Of a model for each hospital that was trained on its records alone.
    """

    federated: Metrics
    personal: Metrics | None = None
    pooled: Metrics | None = None
    local: dict[str, Metrics] = {}


class Spent(_Entry):
    """What a hospital's patients' privacy cost in this run.

    Attributes:
        epsilon: Of all charges in the hospital's ledger; null where privacy is off.
        delta: The study's; null where privacy is off.
        unit: Whom it protects.
        noise: `seeded` noise of a simulation protects nobody: it can be drawn again.
    """

    epsilon: float | None
    delta: float | None
    unit: Literal["patient"] | None
    noise: Literal["seeded", "none"]


class HospitalRecords(_Entry):
    """Records of one hospital by part."""

    train: int
    validation: int
    test: int


class StudyIdentity(_Entry):
    """Which study it was."""

    name: str
    digest: str


class Sums(_Entry):
    """How the hospitals' updates were added up.

    Attributes:
        secure: Whether only sums could be read.
        clipped: Updates that were longer than the study's `clip`, over all rounds.
        capped: Most hospitals in a round that the study's largest weight held back.
        repeated: Rounds that took more than one attempt.
        lost: Rounds that were given up.
    """

    secure: bool
    clipped: int
    capped: int
    repeated: int
    lost: int


class Constants(_Entry):
    """What a measured feature is scaled with."""

    center: float
    scale: float


class EvaluationNoise(_Entry):
    """Noise in the metrics: normal, added at each hospital to each of its sums.

    Attributes:
        multiplier: The study's `evaluation_noise_multiplier`.
        norm: Largest L2 norm of what one patient adds.
        deviation: Standard deviation at one hospital: multiplier times norm, in patients.
    """

    multiplier: float
    norm: float
    deviation: float


class StoppedEarly(_Entry):
    """Which round's model a study with early stopping came to.

    Attributes:
        metric: That was waited for.
        value: Of the delivered model, on the validation part; null where it could not be known.
        round: Whose model it is.
        trained: Rounds that were trained.
    """

    metric: str
    value: float | None
    round: int
    trained: int


class Result(_Entry):
    """The whole document. Version 1."""

    format: Literal[1] = 1
    fedward: str = Field(description="version of Fedward")
    study: StudyIdentity
    seed: int
    rounds: int
    seconds: float = Field(description="the federated run, without baselines")
    seconds_baselines: float
    epsilon_baselines: float | None = Field(
        description="of each model for comparison: it takes part in every round"
    )
    metrics: AllMetrics
    validation: Metrics | None
    sums: Sums
    privacy: dict[str, Spent]
    hospitals: dict[str, HospitalRecords]
    scaling: dict[str, Constants] | None = Field(
        default=None, description="what the federated run measured before its first round"
    )
    evaluation_noise: EvaluationNoise | None = Field(
        default=None, description="noise in all metrics, and of patients; null if exact"
    )
    early_stopping: StoppedEarly | None = Field(
        default=None, description="null in a study that trains all its rounds"
    )
    failures: list[str] = Field(description="a line for each refusal or failure that was survived")
