"""A study's table of statistics over pretended hospitals: real sums, and nothing is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedward.client.app import open_site
from fedward.client.data.reading import forget_shared
from fedward.models.registry import settled
from fedward.privacy.small_cells import Statistics, shown_for
from fedward.privacy.statistics_table import TableSums, cells_of
from fedward.server.federation import Federation
from fedward.simulation.download import found_data
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.simulate import one_thread
from fedward.study.errors import OptionError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study


@dataclass(frozen=True)
class Options:
    """How to pretend.

    Attributes:
        data: The data set, if the study does not bring it.
        seed: Of everything that is drawn.
    """

    data: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Told:
    """What came of it.

    Attributes:
        statistics: What may be shown.
        epsilon: What it cost each patient; None where privacy is off.
    """

    statistics: Statistics
    epsilon: float | None


def statistics(study: Study, options: Options, *, say: Callable[[str], None]) -> Told:
    """The table over all hospitals, without small cells.

    Raises:
        MetricWouldLeave: All patients together are too few to be shown.
        FedwardError: Anything else that keeps it from being made.
    """
    with tempfile.TemporaryDirectory(prefix="fedward-stats-") as folder:
        sums, epsilon = summed(study, options, Path(folder), say=say)
    return Told(shown_for(settled(study), sums), epsilon)


def summed(
    study: Study, options: Options, folder: Path, *, say: Callable[[str], None]
) -> tuple[TableSums, float | None]:
    """The sums themselves, and what they cost.

    Args:
        study: Asks for a table.
        options: How to pretend.
        folder: Where the pretended hospitals go.
        say: Told, in a line, what happens.
    """
    if not cells_of(study):
        raise OptionError(
            "the study asks for no statistics", todo="write a table [data.statistics] into it"
        )
    open_site.cache_clear()  # an earlier run of this process may have had the same folders
    forget_shared()
    study = settled(study)
    data = found_data(study, options.data, say=say)
    hospitals = make_hospitals(study, data, folder, seed=options.seed)
    with one_thread(), InProcessGrid(hospitals, workers=1) as grid:
        federation = Federation(study, grid, run="statistics", seed=options.seed)
        sums = federation.statistics()
    return sums, _spent(study, hospitals)


def _spent(study: Study, hospitals: list[Path]) -> float | None:
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return None
    sites = [open_site(path) for path in hospitals]
    return max(
        site.ledger.epsilon(
            data=site.hospital.data.name, delta=privacy.delta, accountant=privacy.accountant
        )
        for site in sites
    )
