"""A simulation's model, judged again by the same hospitals on the same test records."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fedward.client.app import open_site
from fedward.client.data.reading import forget_shared
from fedward.server.evaluated import Evaluated, evaluated
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import approve
from fedward.simulation.simulate import RUN, one_thread
from fedward.study.errors import OptionError
from fedward.study.evaluation import Evaluation
from fedward.study.messages import Vector
from fedward.study.scaling import Scaling
from fedward.study.study import Study, parse_study

_NOT_COPIED = shutil.ignore_patterns("state", "studies", "cache")


def with_table(study: Study, table: Evaluation | None) -> Study:
    """The study with a table [evaluation]: this one, or its own, or the defaults.

    Raises:
        StudyError: The study can have none.
    """
    wanted = table or study.evaluation or Evaluation()
    values = study.model_dump(mode="json", exclude_none=True)
    return parse_study({**values, "evaluation": wanted.model_dump(mode="json", exclude_none=True)})


def judged_again(
    run: Path, study: Study, model: Vector, scaling: Scaling | None, threshold: float
) -> Evaluated:
    """The table of a finished simulation, from the hospitals that it left; the run is unchanged.

    The draws are the run's own: with the run's own table the same comes out.

    Args:
        run: The run's folder.
        study: With a table [evaluation], perhaps another one than the run's.
        model: What travels of the run's model, shape (d,), float32.
        scaling: What the run measured; None where it measured nothing.
        threshold: The run's.

    Raises:
        OptionError: The run has no pretended hospitals.
        FedwardError: Anything else that keeps them from judging.
    """
    if not any((run / "hospitals").glob("*/hospital.toml")):
        raise OptionError(
            "has no pretended hospitals to ask",
            todo="of an aggregator's run: fedward aggregator evaluate RUN --again",
            where=str(run),
        )
    open_site.cache_clear()  # an earlier run of this process may have had the same folders
    forget_shared()
    with tempfile.TemporaryDirectory(prefix="fedward-evaluate-") as folder:
        copied = Path(folder) / "hospitals"
        shutil.copytree(run / "hospitals", copied, ignore=_NOT_COPIED)
        hospitals = sorted(copied.glob("*/hospital.toml"))
        for file in hospitals:
            approve(study, file)
            open_site(file).load(study.digest())  # what cannot be read is told as what it is
        with one_thread(), InProcessGrid(hospitals, workers=1) as grid:
            sums = Federation(study, grid, run=RUN, seed=0).judged_again(model, scaling)
        open_site.cache_clear()
    found = evaluated(study, sums, threshold)
    if found is None:
        raise OptionError(
            "the study has no table [evaluation]", todo="give one with --table FILE --out FILE"
        )
    return found
