"""The models that a study can name, and how a study becomes a network."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from fedward.models import mlp, small_cnn
from fedward.models.family import Family
from fedward.study.errors import StudyError
from fedward.study.frozen import Fault, Frozen, validate
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import ModelChoice, Study, read_study
from fedward.study.token_data import SequenceData, TextData

if TYPE_CHECKING:
    from torch import nn

FAMILIES: dict[str, Family] = {family.name: family for family in (mlp.FAMILY, small_cnn.FAMILY)}


def build(study: Study, *, seed: int) -> nn.Module:
    """The study's network with fresh weights; the same seed gives the same weights.

    A private study gets the network's private form.

    Raises:
        StudyError: The study names no known model, a setting that the model does not have, or data
            of a shape that the model cannot take.
    """
    import torch  # the daemon reads studies and does without

    from fedward.models.private_form import private_form

    family = _family(study)
    settings = _settings(study, family)
    shape = study.data.input_shape
    tokens = isinstance(study.data, TextData | SequenceData)  # names that are numbers, no measures
    if tokens or len(shape) != len(family.inputs):
        raise StudyError(
            "model.name",
            given=f"{family.name!r}, with data.kind {study.data.kind!r} of shape {shape}"
            f"{' in tokens' if tokens else ''}",
            allowed=f"data of shape ({', '.join(family.inputs)}) for this model",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build(settings, shape, study.task.outputs)
        return private_form(model) if isinstance(study.privacy, LocalPrivacy) else model


def settled(study: Study) -> Study:
    """The study with every setting of its model written out, so that its digest covers them all.

    A default that another version of Fedward has changed then makes another digest, not another
    model under the same one.

    Raises:
        StudyError: As for `build`.
    """
    settings = _settings(study, _family(study))
    model = ModelChoice(name=study.model.name, **settings.model_dump())
    return study.model_copy(update={"model": model})


def read_settled(path: Path) -> Study:
    """Read a study file, the settings of its model included.

    Raises:
        StudyError: A key is unknown, has the wrong type or an impossible value.
        DataError: The file cannot be read.
    """
    study = read_study(path)
    try:
        return settled(study)
    except StudyError as error:
        raise error.in_file(path) from None


def _family(study: Study) -> Family:
    name = study.model.name
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise StudyError("model.name", given=repr(name), allowed=", ".join(FAMILIES) + hint)
    return FAMILIES[name]


def _settings(study: Study, family: Family) -> Frozen:
    settings = validate(family.settings, study.model.settings)
    if isinstance(settings, Fault):
        raise StudyError(f"model.{settings.key}", given=settings.given, allowed=settings.allowed)
    return settings
