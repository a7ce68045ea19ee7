"""A hospital with files of its own, and what the server asks of it in the clear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fedward.client.hospital import HospitalFile
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.privacy.contribution import Layout, Total
from fedward.privacy.plain_sum import PlainSum
from fedward.study.messages import (
    Answer,
    Contribution,
    EvaluateRequest,
    Part,
    Query,
    Refusal,
    Request,
    TrainRequest,
    Vector,
)
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]

PRIVATE: dict[str, Any] = {
    "mode": "local",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}
SEED: dict[str, Any] = {"simulation": {"seed": 3}}
SOURCE: dict[str, Any] = {"format": "csv", "path": "t.csv", "patient": "record"}
DECLARED: dict[str, Any] = {"limits": {"declared_patients": 50}}


class House:
    """A hospital with files of its own in a folder of its own."""

    def __init__(self, folder: Path, name: str = "north", count: int = 40) -> None:
        self.folder, self.name = folder / name, name
        (self.folder / "studies").mkdir(parents=True)
        rng = np.random.default_rng(5)
        ages, ill = rng.integers(20, 90, count), rng.integers(0, 2, count)
        lines = [
            f"{age + 10 * sick},{'fm'[sex]},{sick}"
            for age, sick, sex in zip(ages, ill, rng.integers(0, 2, count), strict=True)
        ]
        self.write("age,sex,diagnosis\n" + "\n".join(lines) + "\n")

    def write(self, table: str) -> None:
        (self.folder / "t.csv").write_text(table, encoding="utf-8")

    def approve(self, study: Study) -> None:
        text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
        (self.folder / "studies" / "study.toml").write_text(text, encoding="utf-8")

    def site(self, **tables: Any) -> Site:  # noqa: ANN401
        values = {"name": self.name, "device": "cpu", "data": SOURCE}
        return Site(HospitalFile.model_validate({**values, **tables}), self.folder)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A hospital of 40 patients: 28 to train on, 4 to validate, 8 to test."""
    return House(tmp_path)


@pytest.fixture(scope="session")
def plain_study(study_with: StudyWith) -> StudyWith:
    """The small study with plain sums, so that a test can read what one hospital adds."""
    return lambda changes: study_with({"aggregation.secure": False, **changes})


@pytest.fixture
def study(plain_study: StudyWith, house: House) -> Study:
    """An approved study without privacy."""
    found = plain_study({})
    house.approve(found)
    return found


@pytest.fixture
def private(plain_study: StudyWith, house: House) -> Study:
    """An approved study with privacy."""
    found = plain_study({"privacy": PRIVATE})
    house.approve(found)
    return found


def start_of(study: Study) -> Vector:
    return flat.flatten(build(study, seed=0))


def training(study: Study, number: int = 1, **changes: Any) -> TrainRequest:  # noqa: ANN401
    """The request to train in a round."""
    asked = TrainRequest(study=study.digest(), run="run-1", round=number, model=start_of(study))
    return dataclasses.replace(asked, **changes)


def judging(study: Study, part: Part = "test", **changes: Any) -> EvaluateRequest:  # noqa: ANN401
    """The request to judge the model on a part."""
    number = study.judging_round(part)
    asked = EvaluateRequest(study.digest(), "run-1", number, start_of(study), part)
    return dataclasses.replace(asked, **changes)


def answer(site: Site, asked: Request | Query) -> Answer:
    """What a hospital answers to a request that arrived whole."""
    return site.answer(lambda: asked)


def vector_from(site: Site, asked: Request) -> Vector:
    """What a hospital adds, which it must not refuse."""
    given = answer(site, asked)
    assert isinstance(given, Contribution), given
    return given.vector


def refusal_from(site: Site, asked: Request | Query) -> Refusal:
    """Why a hospital refuses, which it must."""
    given = answer(site, asked)
    assert isinstance(given, Refusal), "answered with a contribution"
    return given


def total_of(study: Study, vector: Vector, *, update: bool = True) -> Total:
    """The sum over this one hospital."""
    layout = Layout(len(start_of(study)) if update else 0, task_of(study).size)
    summed = PlainSum(layout)
    summed.add(vector)
    return summed.total()


def spent(site: Site, *, data: str = "data") -> float:
    """What a hospital's ledger says that is spent."""
    return site.ledger.epsilon(data=data, delta=1e-5, accountant="rdp")
