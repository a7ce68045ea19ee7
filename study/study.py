"""The study: the contract that a consortium writes and every hospital approves by its digest.

A study is a TOML file with one table for each question that a hospital asks: what is learnt
(`task`), by which network (`model`), from what (`data`), how (`training`), how the updates are put
together (`aggregation`), what protects the patients (`privacy`), who takes part (`participation`)
and what else is told of the final model (`evaluation`). The table `simulation` belongs to
researchers: it says how one data set is divided among pretended hospitals, and is no part of the
contract or its digest.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from fedward.study.aggregation import (
    Aggregation,
    Ditto,
    FedAvg,
    FedBN,
    FedPer,
    QFedAvg,
    Robust,
    Scaffold,
)
from fedward.study.contract import agreed, canonical
from fedward.study.data import Data
from fedward.study.early_stopping import METRICS, NOT_OF_NOISY_SUMS
from fedward.study.errors import StudyError, printable
from fedward.study.evaluation import Evaluation
from fedward.study.frozen import Fault, Frozen, read_toml, validate
from fedward.study.image_data import ImageData
from fedward.study.messages import Part
from fedward.study.participation import Participation
from fedward.study.parts import StratifiedParts
from fedward.study.privacy import LocalPrivacy, NoPrivacy, Privacy
from fedward.study.simulation import Simulation
from fedward.study.sums import refuse_impossible_sums, sums_sentence
from fedward.study.task import ClassTask, GenerationTask, Task
from fedward.study.training import Training

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


_Plain = bool | int | FiniteFloat | str
Setting = _Plain | tuple[_Plain, ...]


class About(Frozen):
    """What the study is called, what its model is for, and the version of the file format.

    Attributes:
        name: Short, for programs.
        title: For people.
        intended_use: What the model is meant for, and for whom; for reports and the model's card.
        limits: What it is not meant for, or was not tried on, a sentence each.
        format: Of the file.
    """

    name: Name
    title: str = ""
    intended_use: str = ""
    limits: tuple[str, ...] = ()
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
    evaluation: Evaluation | None = None
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
    def _can_be_evaluated(self) -> Study:
        if self.evaluation is None:
            return self
        if isinstance(self.task, GenerationTask):
            raise ValueError("no evaluation table for a generation task: it judges no records")
        if self.evaluation_noise is not None:
            raise ValueError(
                "no evaluation table beside privacy.evaluation_noise_multiplier: subgroups and "
                "replicates would leave without the noise that is charged"
            )
        if isinstance(self.privacy, LocalPrivacy) and not self.aggregation.secure:
            raise ValueError(
                "aggregation.secure = true for an evaluation table in a private study: its sums "
                "are exact, and nobody may read those of one hospital"
            )
        return self

    @model_validator(mode="after")
    def _can_stop_early(self) -> Study:
        terms = self.training.early_stopping
        if terms is None:
            return self
        if not self.data.validated:
            raise ValueError(
                "training.early_stopping needs data.parts.validation > 0: a run that were ended by "
                "the test part would be judged by what chose it"
            )
        if self.personal:
            raise ValueError(
                "no training.early_stopping where hospitals keep a model of their own: it is the "
                "last round's, whichever round the server goes back to"
            )
        known = METRICS[self.task.kind]
        if self.evaluation_noise is not None:
            known = tuple(name for name in known if name not in NOT_OF_NOISY_SUMS)
        if terms.metric not in known:
            raise ValueError(
                f"training.early_stopping.metric of {', '.join(known)} for this study, not "
                f"{terms.metric}"
            )
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
    def _images_can_be_made(self) -> Study:
        if not isinstance(self.task, GenerationTask):
            return self
        data = self.data
        if not isinstance(data, ImageData) or len(data.shape) != 3 or data.shape[0] not in {1, 3}:
            raise ValueError("images of 1 or 3 channels, and no volumes, for a generation task")
        if (data.center, data.scale) != (0.5, 0.5):
            raise ValueError("data.center = 0.5 and data.scale = 0.5 for a generation task")
        if data.augmentation is not None:
            raise ValueError(
                "no data.augmentation for a generation task: real images would be varied and made "
                "ones not, by which alone they could be told apart"
            )
        if self.personal or isinstance(self.aggregation, Scaffold | Robust):
            raise ValueError(
                "a strategy of one common model and its mean for a generation task, not "
                f"{self.aggregation.strategy} or fine-tuning"
            )
        return self

    @model_validator(mode="after")
    def _aggregation_can_work(self) -> Study:
        terms, fewest = self.aggregation, self.participation.fewest
        if terms.secure:
            refuse_impossible_sums(terms, self.participation)
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

    @model_validator(mode="after")
    def _control_variates_are_mean_gradients(self) -> Study:
        training = self.training
        if isinstance(self.aggregation, Scaffold) and (
            training.optimizer != "sgd" or training.momentum
        ):
            raise ValueError(
                "training.optimizer sgd without momentum for strategy scaffold: only then the way "
                "of a round is its mean gradient"
            )
        return self

    @model_validator(mode="after")
    def _one_personal_model_and_not_private(self) -> Study:
        kinds = [
            *(["strategy ditto"] if isinstance(self.aggregation, Ditto) else []),
            *(["training.fine_tuning"] if self.training.fine_tuning is not None else []),
        ]
        if kinds and self.privacy.mode != "off":
            raise ValueError(
                f"privacy off for {kinds[0]}: what trains the personal model looks at the records "
                "again, without noise, and figures of that model leave"
            )
        if len(kinds) > 1:
            raise ValueError("one personal model: strategy ditto or training.fine_tuning")
        return self

    @property
    def judged_models(self) -> int:
        """How many models a hospital judges in the end: the global one, and perhaps its own."""
        return 2 if isinstance(self.aggregation, Ditto) or self.training.fine_tuning else 1

    @property
    def personal(self) -> bool:
        """Whether each hospital ends with a model that nobody else has."""
        return self.judged_models > 1 or isinstance(self.aggregation, FedBN | FedPer)

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
        return sums_sentence(self.aggregation, self.participation)

    def contract(self) -> dict[str, Any]:
        """What is agreed on, as JSON values that mean the same study in only one way.

        Defaults are in; a whole number is written without a point; features, whose order matters,
        are a list of pairs. The table `simulation` is left out, and so is a key that came later
        than format 1 and says nothing new: what was approved before it came stays approved.
        """
        return agreed(self.model_dump(mode="json", exclude={"simulation"}))

    def canonical(self) -> bytes:
        """The one form of this study's contract: JSON, keys sorted, no spaces, UTF-8.

        Two files that mean the same study have the same canonical form.
        """
        return canonical(self.contract())

    def digest(self) -> str:
        """SHA-256 of the canonical form, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()


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
