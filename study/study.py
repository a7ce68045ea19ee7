"""The study: the contract that a consortium writes and every hospital approves by its digest.

A study is a TOML file with one table for each question that a hospital asks: what is learnt
(`task`), by which network (`model`), from what (`data`), how (`training`), how the updates are put
together (`aggregation`), what protects the patients (`privacy`) and who takes part
(`participation`). The table `simulation` belongs to researchers: it says how one data set is
divided among pretended hospitals, and is no part of the contract or its digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from fedward.study.aggregation import Aggregation, FedAvg, QFedAvg, Robust
from fedward.study.data import Data
from fedward.study.errors import StudyError, printable
from fedward.study.frozen import Fault, Frozen, read_toml, validate
from fedward.study.messages import Part
from fedward.study.parts import StratifiedParts
from fedward.study.privacy import LocalPrivacy, NoPrivacy, Privacy
from fedward.study.simulation import Simulation
from fedward.study.task import ClassTask, Task
from fedward.study.threshold import colluders_nearby, neighbourhood, shares_needed

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


_Plain = bool | int | FiniteFloat | str
Setting = _Plain | tuple[_Plain, ...]


class About(Frozen):
    """What the study is called, and the version of the file format that it is written in."""

    name: Name
    title: str = ""
    format: Annotated[int, Field(ge=1, le=1)] = 1


class ModelChoice(BaseModel):
    """The model's name in the registry; every further key is a setting of that model."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, Setting]

    name: str

    @property
    def settings(self) -> dict[str, Setting]:
        """The keys beside the name, for the model's family to read."""
        return dict(self.__pydantic_extra__)


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


class Participation(Frozen):
    """Who takes part.

    Attributes:
        hospitals: Hospitals in the federation.
        invited: Hospitals asked in each round, drawn at random; all of them if left out.
        min_hospitals: Fewest answers with which a round counts; all that were invited if left out.
        wait_seconds: How long to wait for hospitals before the first round.
        deadline_seconds: How long one exchange may take before late answers are dropped.
    """

    hospitals: Annotated[int, Field(ge=1, le=100_000)]
    invited: Annotated[int, Field(ge=1)] | None = None
    min_hospitals: Annotated[int, Field(ge=1)] | None = None
    wait_seconds: Annotated[float, Field(gt=0)] = 600.0
    deadline_seconds: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _numbers_fit(self) -> Participation:
        if self.asked > self.hospitals:
            raise ValueError(f"invited <= hospitals, but {self.asked} > {self.hospitals}")
        if self.fewest > self.asked:
            raise ValueError(
                f"min_hospitals <= hospitals asked in a round, but {self.fewest} > {self.asked}"
            )
        return self

    @property
    def asked(self) -> int:
        """Hospitals asked in each round."""
        return self.hospitals if self.invited is None else self.invited

    @property
    def fewest(self) -> int:
        """Fewest answers with which a round counts."""
        return self.asked if self.min_hospitals is None else self.min_hospitals


class Study(Frozen):
    """A whole study, read and checked."""

    study: About
    task: Annotated[Task, Field(discriminator="kind")]
    model: ModelChoice
    data: Annotated[Data, Field(discriminator="kind")]
    training: Training
    aggregation: Annotated[Aggregation, Field(discriminator="strategy")] = FedAvg()
    privacy: Annotated[Privacy, Field(discriminator="mode")] = NoPrivacy()
    participation: Participation
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _parts_fit(self) -> Study:
        threshold = self.task.threshold if isinstance(self.task, ClassTask) else None
        if isinstance(threshold, str) and not self.data.validated:
            raise ValueError("a threshold chosen on validation needs data.parts.validation > 0")
        if self.data.class_values and len(self.data.class_values) != len(self.task.classes):
            raise ValueError(
                f"as many data.class_values as task.classes, "
                f"not {len(self.data.class_values)} for {len(self.task.classes)}"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_can_have_noise(self) -> Study:
        if self.evaluation_noise is not None and not isinstance(self.task, ClassTask):
            raise ValueError("privacy.evaluation_noise_multiplier for binary and multiclass only")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Study:
        given, needed = len(self.data.label_columns), self.task.label_columns
        if given != needed:
            raise ValueError(
                f"data.label of {needed} column{'s' if needed > 1 else ''} for a {self.task.kind} "
                f"task, not {given}"
            )
        return self

    @model_validator(mode="after")
    def _aggregation_can_work(self) -> Study:
        terms, fewest = self.aggregation, self.participation.fewest
        if terms.secure:
            _refuse_impossible_sums(self)
        if isinstance(terms, Robust) and fewest < terms.fewest:
            raise ValueError(
                f"participation.min_hospitals >= {terms.fewest} for strategy {terms.strategy}, not "
                f"{fewest}"
            )
        if isinstance(terms, QFedAvg) and self.privacy.mode != "off":
            raise ValueError(
                "privacy off for strategy qfedavg: its weights tell the training records' loss"
            )
        return self

    def judging_round(self, part: Part) -> int:
        """Number of the exchange that judges the final model on a part, each part once."""
        return self.training.rounds + 1 + get_args(Part).index(part)

    @property
    def judged_parts(self) -> tuple[Part, ...]:
        """The parts that the final model is judged on, in this order."""
        return ("validation", "test") if self.data.validated else ("test",)

    @property
    def evaluation_noise(self) -> float | None:
        """The noise multiplier of every evaluation; None where evaluation has no noise."""
        privacy = self.privacy
        return privacy.evaluation_noise_multiplier if isinstance(privacy, LocalPrivacy) else None

    def sums_sentence(self) -> str:
        """Who can read what leaves a hospital, in a sentence for people."""
        terms, asked = self.aggregation, self.participation.asked
        if not terms.secure:
            return (
                "Sums are plain (secure = false): whoever runs the aggregator can read each "
                "hospital's update and metrics."
            )
        needed = shares_needed(
            hospitals=asked, colluding=terms.colluding, min_honest=terms.min_honest
        )
        fewest = max(needed, self.participation.fewest)
        aside = f", even if {terms.colluding} side with it" if terms.colluding else ""
        return (
            f"Sums are secure: the aggregator reads only sums over at least {fewest} of the "
            f"hospitals{aside}."
        )

    def contract(self) -> dict[str, Any]:
        """What is agreed on, as JSON values that mean the same study in only one way.

        Defaults are in; a whole number is written without a point; features, whose order matters,
        are a list of pairs. The table `simulation` is left out, and so is a key that came later
        than format 1 and says nothing new: what was approved before it came stays approved.
        """
        contract: dict[str, Any] = _whole(self.model_dump(mode="json", exclude={"simulation"}))
        for table in (contract["privacy"], contract["data"], *_features(contract)):
            _leave_out(table, _LATER)
        if contract["data"]["kind"] == "images":
            _leave_out(contract["data"], _LATER_OF_IMAGES)
        if "features" in contract["data"]:
            contract["data"]["features"] = list(contract["data"]["features"].items())
        return contract

    def canonical(self) -> bytes:
        """The one form of this study's contract: JSON, keys sorted, no spaces, UTF-8.

        Two files that mean the same study have the same canonical form.
        """
        return json.dumps(
            self.contract(),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()

    def digest(self) -> str:
        """SHA-256 of the canonical form, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()


# Keys that came later, and what they say where a study was written before them.
_LATER = {
    "bounds": None,
    "clipping": "flat",
    "duplicates": "keep",
    "evaluation_noise_multiplier": None,
    "fhir": None,
    "fill": None,
    "index": None,
    "label_from": None,
    "omop": None,
    "scaling": "given",
    "span": None,
    "statistics": None,
    "statistics_noise_multiplier": None,
}

_LATER_OF_IMAGES = {
    "label": "label",
    "resize": "refuse",
    "unreadable": "refuse",
    "window": None,
}


def _features(contract: dict[str, Any]) -> list[dict[str, Any]]:
    return list(contract["data"].get("features", {}).values())


def _leave_out(table: dict[str, Any], later: Mapping[str, object]) -> None:
    for key in [key for key, before in later.items() if key in table and table[key] == before]:
        del table[key]


def _refuse_impossible_sums(study: Study) -> None:
    """A secure sum that could never be opened, or that would hide nobody, is no study."""
    terms, who = study.aggregation, study.participation
    if who.asked == 1:
        raise ValueError("at least 2 hospitals in a secure sum, or aggregation.secure = false")
    for hospitals in {who.asked, who.hospitals}:
        needed = shares_needed(
            hospitals=hospitals, colluding=terms.colluding, min_honest=terms.min_honest
        )
        trains = hospitals == who.asked  # whoever judges is waited for as the threshold needs
        if trains and who.min_hospitals is not None and who.min_hospitals < needed:
            near = neighbourhood(hospitals)
            colluding = colluders_nearby(hospitals=hospitals, colluding=terms.colluding)
            raise ValueError(
                f"participation.min_hospitals >= {needed}, not {who.min_hospitals}: of {near} "
                f"hospitals that share masks, floor(({near} + {colluding} colluding + "
                f"{terms.min_honest} honest - 1) / 2) + 1 = {needed} must answer, or nobody unmasks"
            )
        # A weight is a multiple of 2**-16 in two words, whose low bits leave room for the sum.
        room = ((2**31 - 1) // hospitals) << (31 - (hospitals - 1).bit_length())
        if terms.largest_weight * 2**16 > room:
            raise ValueError(
                f"aggregation.max_records <= {room // 2**16} with {hospitals} hospitals, not "
                f"{terms.largest_weight}: the sum of weights must fit its words"
            )
    if who.fewest == 2 and not terms.two_hospitals:
        raise ValueError(
            "3 hospitals in every secure sum: each of two can subtract its own update and read the "
            "other's; say aggregation.two_hospitals = true if they may"
        )


def _whole(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same value with 1 in place of 1.0, and 0 in place of -0.0."""
    if isinstance(value, dict):
        return {key: _whole(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_study(values: dict[str, Any]) -> Study:
    """Check the values of a study.

    Raises:
        StudyError: A key is unknown, has the wrong type or an impossible value.
    """
    study = validate(Study, _with_strategy(values))
    if isinstance(study, Fault):
        raise StudyError(study.key, given=study.given, allowed=study.allowed)
    if study.privacy.mode != "off" and isinstance(study.data.parts, StratifiedParts):
        raise StudyError(
            "data.parts.by",
            given='"random" in a private study',
            allowed='"hash" or "file", for at random one patient more or less changes the part of '
            "many others, and no noise hides that",
        )
    if study.privacy.mode != "off" and study.data.duplicates == "drop":
        raise StudyError(
            "data.duplicates",
            given='"drop" in a private study',
            allowed='"keep", for one patient more or less would take away or give back the records '
            "of others, and no noise hides that",
        )
    _refuse_unpaid_statistics(study)
    _refuse_unprintable(study)
    return study


# Unicode's control, format and surrogate characters, and its separators of lines and paragraphs.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _refuse_unprintable(study: Study) -> None:
    """What people read before they approve must not be able to write over what they read."""
    for key, text in _texts(study.model_dump(mode="json", exclude={"simulation"}), ""):
        if any(unicodedata.category(character) in _OBEYED for character in text):
            raise StudyError(
                printable(key),
                given=ascii(text)[:80],
                allowed="printable characters: none that a terminal or an editor obeys",
            )


def _texts(value: object, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, names of keys too, with its path."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            path = f"{key}.{name}" if key else str(name)
            yield path, str(name)
            yield from _texts(entry, path)
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(value):
            yield from _texts(entry, f"{key}.{number}")


def _refuse_unpaid_statistics(study: Study) -> None:
    """With privacy on, what is measured has noise of its own, and only then."""
    if not isinstance(study.privacy, LocalPrivacy):
        return
    noise = study.privacy.statistics_noise_multiplier
    if (noise is not None) == study.data.summed:
        return
    raise StudyError(
        "privacy.statistics_noise_multiplier",
        given="nothing" if noise is None else f"{noise:g}",
        allowed='a number in a private study with data.scaling = "measured" or data.statistics, '
        "and only there",
    )


def _with_strategy(values: dict[str, Any]) -> dict[str, Any]:
    """The plain mean needs no name."""
    terms = values.get("aggregation")
    if not isinstance(terms, dict) or "strategy" in terms:
        return values
    return {**values, "aggregation": {"strategy": "fedavg", **terms}}


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: A key is unknown, has the wrong type or an impossible value.
        DataError: The file cannot be read.
    """
    try:
        return parse_study(read_toml(path, what="study"))
    except StudyError as error:
        raise error.in_file(path) from None
