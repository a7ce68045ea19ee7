"""`fedward encode`: what an autoencoder makes of somebody's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.console import output
from fedward.cli.given_file import content_of
from fedward.cli.options import OwnModel


def encode(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(help="Files of one picture, recording or table.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The new table, CSV.", show_default=False)],
    own: OwnModel = None,
) -> None:
    """Write the codes of records: the few numbers that an autoencoder or vae makes of each.

    A code stands for its record, and can tell of it: treat the table as the patients'.
    """
    from fedward.clinic.asked_model import read_asked_model
    from fedward.clinic.codes import codes_of, codes_table
    from fedward.clinic.new_file import refuse_place, write_new
    from fedward.clinic.unlabelled import read_unlabelled
    from fedward.privacy.whole_file import OWNERS

    refuse_place(out)
    asked = read_asked_model(run, own=own)
    found = read_unlabelled(
        {str(file): content_of(file) for file in files}, asked.study, asked.scaling
    )
    codes = codes_of(asked, found.inputs)
    write_new(out, codes_table(found, codes), mode=OWNERS)
    output.print(f"{len(codes)} records, {codes.shape[1]} numbers each: {out}")
