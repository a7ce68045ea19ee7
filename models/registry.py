"""The models that a study can name, and how a study becomes a network."""

from __future__ import annotations

import difflib
import logging
from collections import UserDict
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedward.models.family import Family
from fedward.models.inputs import inputs_of
from fedward.models.installed import installed
from fedward.models.pretrained import find_pretrained, pretrained_by
from fedward.study.errors import OptionError, StudyError
from fedward.study.frozen import Fault, Frozen, validate
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import ModelChoice, Study, read_study

if TYPE_CHECKING:
    from torch import nn

_LOG = logging.getLogger("fedward.models")


class _Families(UserDict[str, Any]):
    """Each family is imported when it is asked for: most of them load PyTorch."""

    def __getitem__(self, name: str) -> Family:
        found = self.data[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = getattr(import_module(f"fedward.models.{module}"), attribute)
            self.data[name] = found
        family: Family = found
        return family


FAMILIES = _Families(
    {
        "linear": "linear:FAMILY",
        "mlp": "mlp:FAMILY",
        "small_cnn": "small_cnn:FAMILY",
        "resnet": "resnet:FAMILY",
        "densenet121": "densenet121:FAMILY",
        "efficientnet": "efficientnet:FAMILY",
        "vit": "vit:FAMILY",
        "alexnet": "classic_cnn:ALEXNET",
        "vgg": "classic_cnn:VGG",
        "inception": "classic_cnn:INCEPTION",
        "unet": "unet:FAMILY",
        "rnn": "recurrent:RNN",
        "lstm": "recurrent:LSTM",
        "gru": "recurrent:GRU",
        "temporal_cnn": "temporal_cnn:FAMILY",
        "transformer": "transformer:FAMILY",
        "bag_of_tokens": "bag_of_tokens:FAMILY",
        "autoencoder": "autoencoder:FAMILY",
        "vae": "vae:FAMILY",
        "huggingface": "huggingface:FAMILY",
        "gan": "gan:FAMILY",
    }
)


def every_family() -> Iterator[Family]:
    """Fedward's own, then those of installed packages; what is broken is told in the log."""
    yield from FAMILIES.values()
    found = installed(FAMILIES)
    for error in found.refused.values():
        _LOG.warning("%s", error)
    for offered in found.families.values():
        try:
            yield offered.family()
        except OptionError as error:
            _LOG.warning("%s", error)


def package_of(name: str) -> str | None:
    """Name and version of the installed package that brings a model; None if it is Fedward's."""
    offered = None if name in FAMILIES else installed(FAMILIES).families.get(name)
    return None if offered is None else offered.package


def family_of(study: Study) -> Family:
    """The family that the study names: Fedward's own, or an installed package's.

    Raises:
        StudyError: There is none of that name.
        OptionError: The package that brings it is broken, or was refused.
    """
    name = study.model.name
    if name in FAMILIES:
        return FAMILIES[name]
    found = installed(FAMILIES)
    if name in found.families:
        return found.families[name].family()
    if name in found.refused:
        raise found.refused[name]
    known = [*FAMILIES, *found.families]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise StudyError("model.name", given=repr(name), allowed=", ".join(known) + hint)


def build(study: Study, *, seed: int, models: Path | None = None) -> nn.Module:
    """The study's network with fresh weights; the same seed gives the same weights.

    A private study gets the network's private form.

    Args:
        study: Names the model.
        seed: Of the weights.
        models: This machine's folder of pretrained models, for those that begin with one.

    Raises:
        StudyError: The study names no known model, a setting that the model does not have, or
            records, a task or privacy that are not for this model.
        OptionError: A package that the model needs is not installed, or that brings it is broken;
            or the folder of its pretrained model is not named.
        DataError: The pretrained model is not in the folder, or cannot be read.
    """
    import torch  # the daemon reads studies and does without

    from fedward.models.private_form import private_form

    family = family_of(study)
    settings = _settings(study, family)
    inputs = inputs_of(study.data)
    if inputs.kind not in family.inputs:
        raise StudyError(
            "model.name",
            given=f"{family.name!r}, with records of kind {inputs.kind!r} ({study.data.kind})",
            allowed=f"for this model records of kind {' or '.join(family.inputs)}; for such "
            f"records {_those(lambda other: inputs.kind in other.inputs)}",
        )
    if study.task.kind not in family.tasks:
        raise StudyError(
            "model.name",
            given=f"{family.name!r}, with a {study.task.kind} task",
            allowed=f"for this model {', '.join(family.tasks)}; for such a task "
            f"{_those(lambda other: study.task.kind in other.tasks)}",
        )
    if isinstance(study.privacy, LocalPrivacy) and not family.private:
        raise StudyError(
            "model.name",
            given=f"{family.name!r}, in a private study",
            allowed=_those(lambda other: other.private),
        )
    place = [find_pretrained(models, pretrained_by(study))] if family.pretrained else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build(settings, inputs, study.task.outputs, *place)
        return private_form(model) if isinstance(study.privacy, LocalPrivacy) else model


def settled(study: Study) -> Study:
    """The study with every setting of its model written out, so that its digest covers them all.

    A default that another version of Fedward has changed then makes another digest, not another
    model under the same one.

    Raises:
        StudyError: As for `build`.
    """
    settings = _settings(study, family_of(study))
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


def _those(fit: Callable[[Family], bool]) -> str:
    """Names of Fedward's own families: an error imports no other package."""
    return ", ".join(family.name for family in FAMILIES.values() if fit(family))


def _settings(study: Study, family: Family) -> Frozen:
    settings = validate(family.settings, study.model.settings)
    if isinstance(settings, Fault):
        raise StudyError(f"model.{settings.key}", given=settings.given, allowed=settings.allowed)
    return settings
