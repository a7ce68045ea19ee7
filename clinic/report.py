"""A run's report: one page that needs nothing beside it, and the model's card."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tomli_w
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fedward.clinic.model_card import card_of
from fedward.clinic.report_pictures import classes_of, pictures_of
from fedward.clinic.report_words import METRICS, Figure, Page, Row, figure, said_of, sums_of
from fedward.clinic.subgroup_table import subgroups_of
from fedward.clinic.told import Metrics, Told, read_told
from fedward.models.tasks.figures import NAMES, shown
from fedward.models.tasks.multilabel import Multilabel
from fedward.privacy.whole_file import OWNERS, write_whole
from fedward.study.errors import OptionError
from fedward.study.privacy import LocalPrivacy
from fedward.study.version import VERSION

REPORT, CARD = "report.html", "MODEL_CARD.md"


class Hospital(NamedTuple):
    """Who took part.

    Attributes:
        name: The hospital's.
        records: Of training, validation and test; None where the folder does not tell.
        answered: Rounds in which it was in the sum; None likewise.
        epsilon: Spent, as its ledger says; None likewise, or without privacy.
    """

    name: str
    records: tuple[int, int, int] | None
    answered: int | None
    epsilon: float | None


class Written(NamedTuple):
    """What was written, and what is missing in it."""

    report: Path
    card: Path
    missing: list[str]


def write_report(folder: Path, out: Path) -> Written:
    """Write `report.html` and `MODEL_CARD.md` of a finished run.

    Args:
        folder: The run's, of a simulation or of an aggregator's registry.
        out: Where they go; made if it is not there.

    Raises:
        OptionError: It is no folder of a finished run, or `out` cannot be written.
        DataError: A file of the run is damaged, or of another study.
        StudyError: The study does not hold with this version of Fedward.
    """
    told = read_told(folder)
    said = said_of(told)
    page, missing = page_of(told, said)
    card = card_of(told, said)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in ((REPORT, page), (CARD, card)):
            write_whole(out / name, text.encode(), mode=OWNERS)
    except OSError as error:
        raise OptionError(
            f"cannot be written ({error.strerror})", todo="give another --out", where=str(out)
        ) from None
    return Written(out / REPORT, out / CARD, missing)


def page_of(told: Told, said: Page) -> tuple[str, list[str]]:
    """The page, and a sentence for each thing that is missing in it."""
    drawn = pictures_of(told)
    missing = [*drawn.missing, *_unknown(told)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    foremost = shown(told.federation.test)
    page = environment.get_template("report.html.jinja").render(
        said._asdict(),
        study=told.study,
        contract=tomli_w.dumps(told.study.model_dump(mode="json", exclude_none=True)),
        pictures=drawn.pictures,
        missing=missing,
        hospitals=_hospitals(told),
        foremost=[NAMES[name] for name in foremost],
        models=[Row(m, [figure(f.get(n)) for n in foremost]) for m, f in told.models.items()],
        classes=list(_classes(told.federation.test)),
        findings=list(_findings(told)),
        subgroups=subgroups_of(told),
        sums=sums_of(told.study),
        private=isinstance(told.study.privacy, LocalPrivacy),
        failures=[] if told.result is None else told.result.failures,
        versions=told.versions,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=VERSION,
    )
    return page, missing


def _classes(test: Metrics) -> Iterator[tuple[str, dict[str, Figure]]]:
    found: dict[str, dict[str, float | None]] = test.get("classes") or {}
    for name, metrics in found.items():
        yield name, {METRICS.get(key, key): figure(value) for key, value in metrics.items()}


def _findings(told: Told) -> Iterator[tuple[str, list[int]]]:
    """A confusion table a row, for each finding of a multilabel task."""
    sums = (told.sums or {}).get("federated.test")
    if isinstance(told.task, Multilabel) and sums is not None:
        table = told.task.table(sums, told.facts.threshold)
        for name, counts in zip(classes_of(told), table, strict=True):
            yield name, np.rint(counts).astype(int).tolist()


def _hospitals(told: Told) -> list[Hospital]:
    if told.result is None:
        return [Hospital(name, None, rounds, None) for name, rounds in told.answered.items()]
    found: list[Hospital] = []
    for name, counts in told.result.hospitals.items():
        spent = told.result.privacy.get(name)
        records = (counts.train, counts.validation, counts.test)
        found.append(Hospital(name, records, None, None if spent is None else spent.epsilon))
    return found


def _unknown(told: Told) -> Iterator[str]:
    """What an aggregator does not know, or a run was not asked for."""
    if told.result is None:
        yield "An aggregator does not know how many records each hospital has."
        yield "There are no pooled and local-only models to compare with: only a simulation has."
        if isinstance(told.study.privacy, LocalPrivacy):
            yield "What was spent is in each hospital's own ledger: fedward hospital budget."
        if not told.answered:
            yield "The run's events do not say which hospitals answered."
    elif told.result.metrics.pooled is None:
        yield "No models were trained for comparison (--no-baselines), or none could be."
    if told.study.evaluation is not None and told.evaluation is None:
        yield "The study asks for subgroups and intervals, and there is no evaluation.json."
    if not told.versions:
        yield "The run did not keep the versions of its software."
    if told.facts.staying:
        yield (
            f"{len(told.facts.staying)} of the model's weights are each hospital's own, and not in "
            "its file."
        )
