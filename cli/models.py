"""`fedward models`: what a study can name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import output
from fedward.cli.study_file import whole_study

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from fedward.models.family import Family
    from fedward.study.study import Study


def models(
    study: Annotated[
        Path | None,
        typer.Argument(help="Count weights for this study.", show_default=False),
    ] = None,
    *,
    folder: Annotated[
        Path | None,
        typer.Option("--models", help="Folder of pretrained models, to count a study's own."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the models that a study can name: for what records and tasks, how large, and settings.

    Weights are counted at the default settings, for two outputs and a usual record of the first
    kind that the model takes; or for a study, whose own model has the study's settings. Of a
    pretrained model those are counted that are trained, and so travel.
    """
    from fedward.models.registry import every_family

    given = None if study is None else whole_study(study)[0]
    found = [_about(family, given, folder) for family in every_family()]
    if as_json:
        output.print(json.dumps(found, indent=2))
        return
    table = Table("model", "a record is", "tasks", "weights", "privacy", "from", box=None)
    for column in (0, 5):
        table.columns[column].no_wrap = True
    for each in found:
        weights = each["weights"]
        table.add_row(
            Text(each["name"], style="bold"),
            ", ".join(each["inputs"]),
            ", ".join(each["tasks"]),
            each["why"] if weights is None else f"{weights:,}",
            ", ".join(each["privacy"]) or "off only",
            each["from"] + (f" [{each['extra']}]" if each["extra"] else ""),
        )
    output.print(table)
    output.print("\nSettings in [model], with their defaults:\n")
    for each in found:
        settings = ", ".join(
            name if value is None else f"{name} = {value}"
            for name, value in each["settings"].items()
        )
        output.print(f"{each['name']}: {settings or 'none'}")
    of = _examples() if given is None else f"of study {given.study.name!r}"
    output.print(f"\nWeights are {of}.")


def _about(family: Family, study: Study | None, folder: Path | None) -> dict[str, Any]:
    """One family as JSON values."""
    from fedward.models.registry import package_of
    from fedward.privacy.gradients.bounds import Clipping

    weights, why = _weights(family, study, folder)
    return {
        "name": family.name,
        "inputs": list(family.inputs),
        "tasks": list(family.tasks),
        "weights": weights,
        "why": why,
        "privacy": list(get_args(Clipping)) if family.private else [],
        "extra": family.extra,
        "from": package_of(family.name) or "fedward",
        "settings": {
            name: None if field.is_required() else _default(field)
            for name, field in family.settings.model_fields.items()
        },
    }


def _default(field: FieldInfo) -> object:
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _weights(family: Family, study: Study | None, folder: Path | None) -> tuple[int | None, str]:
    """How many there are to train, counted without making them; or why nobody can say."""
    if family.pretrained:
        return _pretrained_weights(family, study, folder)
    import torch

    from fedward.models.inputs import EXAMPLES, inputs_of
    from fedward.study.errors import InputError

    settings, inputs, outputs = family.settings(), EXAMPLES[family.inputs[0]], 2
    if study is not None:
        inputs, outputs = inputs_of(study.data), study.task.outputs
        if inputs.kind not in family.inputs or study.task.kind not in family.tasks:
            return None, "not for it"
        if study.model.name == family.name:
            settings = family.settings(**study.model.settings)
    try:
        with torch.device("meta"):
            network = family.build(settings, inputs, outputs)
    except InputError as error:
        missing = f"needs fedward[{family.extra}]" if family.extra else error.what
        return None, error.what if study is not None else missing
    return sum(parameter.numel() for parameter in network.parameters()), ""


def _pretrained_weights(
    family: Family, study: Study | None, folder: Path | None
) -> tuple[int | None, str]:
    """How many of a pretrained model's weights are trained, counted in the model itself."""
    if study is None or study.model.name != family.name:
        return None, "its folder's"
    if folder is None:
        return None, "its folder's: give --models"
    from fedward.models import flat
    from fedward.models.registry import build
    from fedward.study.errors import InputError

    try:
        return len(flat.flatten(build(study, seed=0, models=folder))), ""
    except InputError as error:
        return None, error.what


def _examples() -> str:
    from fedward.models.inputs import EXAMPLES

    each = (
        f"{kind} {' x '.join(map(str, example.shape))}"
        + (f" of {example.tokens} tokens" if example.tokens else "")
        for kind, example in EXAMPLES.items()
    )
    return f"of {', '.join(each)}, and two outputs"
