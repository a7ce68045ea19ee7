"""A finished run, as its folder has it: the study, the model, and what the run found out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedward.models import flat
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Task
from fedward.study.errors import DataError, OptionError
from fedward.study.frozen import Fault, Frozen, validate
from fedward.study.privacy import NoPrivacy
from fedward.study.scaling import Scaling
from fedward.study.study import Setting, Study, read_study
from fedward.study.task import ClassTask

STUDY, MODEL = "study.toml", "model.safetensors"


class Constants(Frozen):
    """What a measured feature is scaled with."""

    center: float
    scale: float


class ModelFacts(Frozen):
    """What a model file says of itself.

    Attributes:
        study: The study's name.
        digest: The study's digest.
        run: The run's name, in the file of a hospital's own model.
        model: The family and its settings.
        classes: Names of the classes, where the task has any.
        threshold: Probability from which a finding is called, chosen on validation or given.
        scaling: Center and scale of each measured feature, where the study measures them.
        staying: Weights that are each hospital's own and not in the file.
    """

    study: str
    digest: str
    run: str | None = None
    model: dict[str, Setting | None]
    classes: tuple[str, ...] = ()
    threshold: float = Field(0.5, gt=0, lt=1)
    scaling: dict[str, Constants] | None = None
    staying: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """A run that came to its end.

    Attributes:
        folder: The run's folder, of a simulation or of an aggregator's registry.
        study: What was agreed on.
        facts: What the model file says of itself.
        model: The network with its weights, in the form that was trained, on the CPU, judging.
        own: Whether the weights are of another file than the run's, a hospital's own model.
    """

    folder: Path
    study: Study
    facts: ModelFacts
    model: nn.Module
    own: bool = False

    @cached_property
    def task(self) -> Task:
        """Loss and metrics, without noise."""
        return task_of(without_privacy(self.study))

    @property
    def scaling(self) -> Scaling | None:
        """The constants that the run measured, in the study's order; None if the study has them."""
        return scaling_of(self.study, self.facts.scaling, str(self.folder / MODEL))


def read_finished(
    folder: Path,
    *,
    models: Path | None = None,
    model: Path | None = None,
    threshold: float | None = None,
) -> Finished:
    """Read the folder of a finished run.

    Args:
        folder: With `study.toml` and `model.safetensors`.
        models: This machine's folder of pretrained models, for a study that begins with one.
        model: A hospital's own model, instead of the run's.
        threshold: As for `read_agreed`.

    Raises:
        OptionError: It is no folder of a finished run.
        DataError: A file in it is damaged, or the model is another study's.
        StudyError: The study does not hold with this version of Fedward.
    """
    study, facts, weights = read_agreed(folder, model=model, threshold=threshold)
    where = str(model or folder / MODEL)
    if facts.staying:
        raise DataError(
            "holds what all hospitals share; the other layers are each hospital's own",
            todo="give a hospital's personal-model.safetensors with --model",
            where=where,
        )
    network = build(study, seed=0, models=models)
    _load(network, weights, where=where)
    network.eval().requires_grad_(False)
    return Finished(folder, study, facts, network, own=model is not None)


def read_agreed(
    folder: Path, *, model: Path | None = None, threshold: float | None = None
) -> tuple[Study, ModelFacts, dict[str, Tensor]]:
    """Study, facts and weights of a finished run, held against each other; no network is built.

    Args:
        folder: The run's; beside another model only its `study.toml` is read.
        model: Another model's file, instead of the run's.
        threshold: From 0 to 1, for a model whose file cannot say it; None if none is given.

    Raises:
        OptionError: As `read_finished`; or a threshold is lacking, or given without need.
        DataError: As `read_finished`.
        StudyError: As `read_finished`.
    """
    for name in (STUDY, MODEL) if model is None else (STUDY,):
        if not (folder / name).is_file():
            raise OptionError(
                f"has no {name}", todo="give the folder of a finished run", where=str(folder)
            )
    study = read_study(folder / STUDY)
    path = model or folder / MODEL
    facts, weights = _read_model(path)
    if facts.digest != study.digest():
        raise DataError(
            f"is the model of study {facts.digest[:12]}, not of {study.digest()[:12]} beside it",
            todo="put back the files of one run",
            where=str(path),
        )
    if {measured.name for measured in study.data.measured} != set(facts.scaling or {}):
        raise DataError(
            "lacks the constants that the study's features were scaled with",
            todo="train again with this version of Fedward",
            where=str(path),
        )
    return study, _with_threshold(facts, study, threshold, where=str(path)), weights


def _with_threshold(
    facts: ModelFacts, study: Study, threshold: float | None, *, where: str
) -> ModelFacts:
    """The facts, with the threshold that is given where the file cannot say which was chosen."""
    chosen = isinstance(study.task, ClassTask) and isinstance(study.task.threshold, str)
    unknown = chosen and "threshold" not in facts.model_fields_set
    if unknown and threshold is None:
        raise OptionError(
            "the threshold was chosen on validation, and only the aggregator knows it",
            todo="ask there which threshold the figures of this model are for, and give it with "
            "--threshold P",
            where=where,
        )
    if threshold is None:
        return facts
    if not unknown:
        raise OptionError(
            "--threshold", todo="leave it out: the model or its study says it", where=where
        )
    return facts.model_copy(update={"threshold": threshold})


def scaling_of(study: Study, found: Mapping[str, Constants] | None, where: str) -> Scaling | None:
    """Constants by name in the study's order; None if the study measures nothing.

    Args:
        study: Says what is measured.
        found: By name, as a file has them.
        where: The file, for the error.

    Raises:
        DataError: They are not those of what the study measures.
    """
    names = [measured.name for measured in study.data.measured]
    if set(found or {}) != set(names):
        raise DataError(
            f"has constants of {', '.join(found or {}) or 'nothing'}; the study measures "
            f"{', '.join(names) or 'nothing'}",
            todo="take the file from where it was written again",
            where=where,
        )
    if not found:
        return None
    each = [found[name] for name in names]
    return Scaling(tuple(c.center for c in each), tuple(c.scale for c in each))


def without_privacy(study: Study) -> Study:
    """The same study for whoever uses its model: nothing is trained, so nothing is charged."""
    return study.model_copy(update={"privacy": NoPrivacy()})


def _load(model: nn.Module, weights: dict[str, Tensor], *, where: str) -> None:
    """Put weights into the network: all that a run delivers, and nothing else."""
    wanted = {name: entry.shape for name, entry in flat.named(model).items()}
    if {name: entry.shape for name, entry in weights.items()} != wanted:
        raise DataError(
            "its weights are not those of the study's network",
            todo="read it with the version of Fedward that wrote it",
            where=where,
        )
    model.load_state_dict(weights, strict=False)  # of tied weights the file has one


def _read_model(path: Path) -> tuple[ModelFacts, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("fedward", "")
            weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        facts = validate(ModelFacts, json.loads(said))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot be read as a model of Fedward's ({type(error).__name__})",
            todo="take it from the run's folder again",
            where=str(path),
        ) from None
    if isinstance(facts, Fault):
        raise DataError(
            f"says of itself {facts.key} = {facts.given}; allowed: {facts.allowed}",
            todo="take it from the run's folder again",
            where=str(path),
        )
    if not all(bool(torch.isfinite(w).all()) for w in weights.values() if w.is_floating_point()):
        raise DataError("has weights that are no numbers", todo="train again", where=str(path))
    return facts, weights
