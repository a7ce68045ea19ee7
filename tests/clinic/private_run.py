"""A finished run of a private study, really simulated: a table, its constants measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedward.simulation.simulate import Options, simulate
from tests.simulation.conftest import COUNT, study_of, write_table


def private_run(folder: Path, **tables: dict[str, Any]) -> Path:
    """The run's folder, below this one; the study's other tables may be given."""
    study = study_of(
        data={
            "features": {"number": {"bounds": [0, 60]}, "age": {}, "size": {}},
            "scaling": "measured",
        },
        privacy={
            "mode": "local",
            "noise_multiplier": 1.0,
            "statistics_noise_multiplier": 2.0,
            "delta": 1e-3,
            "sampling_rate": 0.5,
            "accountant": "rdp",
        },
        simulation={"split": "iid", "source": {"patient": "patient"}},
        **tables,
    )
    data = write_table(folder / "records.csv", range(COUNT))
    options = Options(out=folder / "run", data=data, seed=4, workers=1, baselines=False)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    return folder / "run"
