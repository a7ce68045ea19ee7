"""`fedward split`: make hospitals out of one data set, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.console import messages, output
from fedward.cli.options import HowMany, Models, StudyFile
from fedward.cli.study_file import whole_study
from fedward.study.errors import OptionError


def split(
    *,
    study: StudyFile,
    out: Annotated[Path, typer.Option(help="Folder for the hospitals; must be new.")],
    data: Annotated[Path | None, typer.Option(help="The data set, as for simulate.")] = None,
    hospitals: HowMany = None,
    models: Models = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the split.")] = 0,
) -> None:
    """Divide a data set among pretended hospitals.

    Each gets a folder with its hospital.toml, the numbers of its records and the approved study;
    no record is copied. `flwr run .` and real client processes can then work with these folders.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError("is not empty", todo="give another --out", where=str(out))
    from fedward.client.hospital import read_hospital
    from fedward.simulation.download import found_data
    from fedward.simulation.hospitals import make_hospitals
    from fedward.simulation.simulate import with_hospitals

    whole, _ = whole_study(study)
    contract = with_hospitals(whole, hospitals)
    found = found_data(contract, data, say=messages.print)
    for file in make_hospitals(contract, found, out, seed=seed, models=models):
        hospital = read_hospital(file)
        declared = hospital.limits.declared_patients
        output.print(f"{hospital.name}: {declared} training patients, {file}")
