"""`fedward models`: what a study can name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fedward.cli.console import output

if TYPE_CHECKING:
    from fedward.models.family import Family


def models() -> None:
    """List the models that a study can name: for what records and tasks, how large, and settings.

    Weights are counted for two outputs and a usual record of the first kind that the model takes.
    """
    from fedward.models.registry import FAMILIES

    table = Table.grid(padding=(0, 2))
    for family in FAMILIES.values():
        settings = ", ".join(
            f"{name} = {list(field.default) if isinstance(field.default, tuple) else field.default}"
            for name, field in family.settings.model_fields.items()
        )
        table.add_row(Text(family.name, style="bold"), "a record is", " or ".join(family.inputs))
        table.add_row("", "tasks", ", ".join(family.tasks))
        table.add_row("", "privacy", "off, or for each patient" if family.private else "off only")
        table.add_row("", "weights", _weights(family))
        table.add_row("", "[model]", Text(settings or "none"))
        table.add_row()
    output.print(table)
    output.print(f"Weights are of {_examples()}, and two outputs.")


def _weights(family: Family) -> str:
    """How many there are to train; counted without making them."""
    import torch

    from fedward.models.inputs import EXAMPLES
    from fedward.study.errors import OptionError

    try:
        with torch.device("meta"):
            network = family.build(family.settings(), EXAMPLES[family.inputs[0]], 2)
    except OptionError:
        return "needs fedward[imaging]"
    return f"{sum(p.numel() for p in network.parameters()):,}"


def _examples() -> str:
    from fedward.models.inputs import EXAMPLES

    return ", ".join(
        f"{kind} {' x '.join(map(str, example.shape))}"
        + (f" of {example.tokens} tokens" if example.tokens else "")
        for kind, example in EXAMPLES.items()
    )
