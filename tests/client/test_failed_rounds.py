"""A SCAFFOLD hospital whose round failed: it counted, so both sides know the same c_i of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedward.client.own_state import OwnState
from fedward.client.site import Site
from fedward.privacy.contribution import Total
from fedward.study.messages import TrainRequest
from tests.client.conftest import SEED, House, StudyWith, refusal_from, training, vector_from
from tests.privacy.conftest import fast_folder
from tests.secure_sites import Run, Sites, study_of


@pytest.fixture
def run() -> Iterator[Run]:
    """Three hospitals, secure sums, and a model with its control variate."""
    study = study_of(aggregation={"strategy": "scaffold"})
    with fast_folder() as folder:
        found = Run(Sites(folder, study, seed=5), study)
        found.model = np.concatenate([found.model, np.full_like(found.model, 0.01)])
        yield found


def control(run: Run, name: str, number: int) -> np.ndarray[Any, Any]:
    folder = next(run.sites.state(name).glob("runs/*"))
    kept = OwnState(folder, "own", durable=False).of(number)
    assert kept is not None
    return kept["control"]


def first(run: Run) -> TrainRequest:
    return replace(run.train(), monitor="validation")


def play_first_and_second(run: Run) -> tuple[Total, Total]:
    one = run.play(first(run))
    return one, run.play(replace(run.train(2), counted=dict.fromkeys(run.sites.names, 1)))


@pytest.mark.parametrize("where", ["_sums", "_parts"])
def test_after_a_round_that_ran_out_of_memory_the_hospital_goes_on(
    where: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = getattr(Site, where), []

    def exhausted(site: Site, request: TrainRequest, *rest: Any) -> Any:  # noqa: ANN401
        if site.hospital.name == "a" and request.round == 1:
            failed.append(where)
            raise MemoryError
        return real(site, request, *rest)

    monkeypatch.setattr(Site, where, exhausted)
    one, two = play_first_and_second(run)

    assert failed == [where]
    assert (one.failed, two.failed) == (1, 0)
    assert not control(run, "a", 1).any()
    assert control(run, "a", 2).any()
    assert control(run, "b", 1).any()


@pytest.mark.parametrize("metric", [float("nan"), 1e30])
def test_a_contribution_that_cannot_be_encoded_does_not_move_what_stays(
    metric: float, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Site._sums

    def spoilt(site: Site, request: Any, *rest: Any) -> Any:  # noqa: ANN401
        found = real(site, request, *rest)
        return found + metric if site.hospital.name == "a" and request.round == 1 else found

    monkeypatch.setattr(Site, "_sums", spoilt)
    one, two = play_first_and_second(run)

    assert (one.failed, two.failed) == (1, 0)
    assert not control(run, "a", 1).any()
    assert control(run, "b", 1).any()


def test_in_the_clear_what_stays_moves_only_with_what_leaves(
    plain_study: StudyWith, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = plain_study({"aggregation": {"strategy": "scaffold", "secure": False}})
    house.approve(study)
    site, asked = house.site(**SEED), training(study, monitor="validation")
    asked = replace(asked, model=np.concatenate([asked.model, np.zeros_like(asked.model)]))

    def kept() -> bool:
        own = OwnState(next(house.folder.glob("state/runs/*")), "own", durable=False)
        found = own.of(1)
        assert found is not None
        return bool(found["control"].any())

    with monkeypatch.context() as patch:
        patch.setattr(Site, "_sums", lambda *_: np.full(site.load(asked.study).task.size, np.nan))
        assert "not finite" in refusal_from(site, asked).what
    assert not kept()
    vector_from(site, asked)
    assert kept()
