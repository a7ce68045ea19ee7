"""`fedward models`: what a study can name."""

from __future__ import annotations

from rich.table import Table

from fedward.cli.console import output


def models() -> None:
    """List the models that a study can name, with their settings and defaults."""
    from fedward.models.registry import FAMILIES

    table = Table()
    for column in ("model", "a record is", "settings of [model] and their defaults"):
        table.add_column(column)
    for family in FAMILIES.values():
        settings = ", ".join(
            f"{name} = {list(field.default) if isinstance(field.default, tuple) else field.default}"
            for name, field in family.settings.model_fields.items()
        )
        table.add_row(family.name, ", ".join(family.inputs), settings)
    output.print(table)
