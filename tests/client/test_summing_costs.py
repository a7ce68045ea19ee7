"""A lie costs a hospital no training, no privacy and nothing that it keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from fedward.client.site import Site
from fedward.privacy.advert import RunKey, make_advert, pack
from fedward.privacy.identity import Identity
from fedward.study.messages import (
    AdvertiseQuery,
    Answer,
    MaskedContribution,
    Query,
    Refusal,
    Request,
    TrainRequest,
)
from tests.privacy.conftest import fast_folder
from tests.secure_sites import PRIVATE, Run, Sites, again, study_of

SMALL_ORDER = bytes([1]) + bytes(31)


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as found:
        yield found


@pytest.fixture
def run(folder: Path) -> Run:
    """Three hospitals whose every training is charged, after two honest rounds."""
    study = study_of(privacy=PRIVATE)
    found = Run(Sites(folder, study), study)
    found.play(found.train(1))
    found.play(found.train(2))
    return found


def refusal(run: Run, request: Request | Query) -> Refusal:
    answer: Answer = run.sites["a"].answer(lambda: request)
    assert isinstance(answer, Refusal), answer
    return answer


def of_small_order(run: Run, request: TrainRequest) -> TrainRequest:
    """b's identity signs a key that agrees on nothing with anybody."""
    identity = Identity.load(run.sites.files["b"].parent / "identity.pem")
    key = cast(RunKey, SimpleNamespace(public=SMALL_ORDER))
    study = run.study.digest()
    advert = make_advert(identity, key, study=study, run=run.name, hospital="b")
    assert request.invitation is not None
    a, _, c = request.invitation.adverts
    adverts = (a, pack(advert), c)
    return replace(request, invitation=replace(request.invitation, adverts=adverts))


LIES: dict[str, Callable[[Run], TrainRequest]] = {
    "another model": lambda r: replace(again(r.train(2), 2), model=r.model + np.float32(1)),
    "another part to judge": lambda r: replace(again(r.train(2), 2), monitor="test"),
    "other hospitals": lambda r: r.train(2, attempt=2, names="ab"),
    "the attempt again": lambda r: r.train(2),
    "the round before, again": lambda r: r.train(1),
    "the round before, a new attempt": lambda r: r.train(1, attempt=9),
    "a key of small order": lambda r: of_small_order(r, r.train(3)),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_costs_nothing_and_the_round_can_still_be_repeated(what: str, run: Run) -> None:
    refused = refusal(run, LIES[what](run))

    assert refused.error == "ProtocolError"
    assert run.sites.charges() == {"a": 2, "b": 2, "c": 2}
    assert run.play(run.train(2, attempt=3)).weight > 0
    assert run.sites.charges() == {"a": 2, "b": 2, "c": 2}


def test_a_contribution_that_is_lost_is_not_made_anew(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Two different ones in two sums over the same hospitals would tell their difference."""
    for kept in run.sites.state("a").rglob("*.words"):
        kept.unlink()

    refused = refusal(run, run.train(2, attempt=2))

    assert refused.error == "ProtocolError"
    assert "Replayed: round 2 was worked for before" in caplog.text
    assert run.sites.charges()["a"] == 2
    assert run.play(run.train(3)).weight > 0


def test_two_processes_that_train_at_once_add_the_same(run: Run) -> None:
    """A late first attempt and an early second one, in two processes of one hospital."""
    requests = [run.train(3, attempt=n) for n in (1, 2)]
    hospital, home = run.sites["a"].hospital, run.sites.files["a"].parent
    answers: dict[int, Answer] = {}

    def ask(number: int) -> None:
        site = Site(hospital, home)
        answers[number] = site.answer(lambda: requests[number])

    threads = [threading.Thread(target=ask, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert any(isinstance(answer, MaskedContribution) for answer in answers.values())
    assert run.sites.charges()["a"] == 3
    one, other = (run.play(run.train(3, attempt=n)) for n in (3, 4))
    assert np.array_equal(one.update, other.update)


def test_two_studies_may_have_runs_of_one_name(run: Run) -> None:
    other = study_of(privacy=PRIVATE, study={"name": "other"})
    run.sites.approve(other)

    assert Run(run.sites, other).play(Run(run.sites, other).train(1)).weight > 0
    assert run.play(run.train(2, attempt=2)).weight > 0


@pytest.mark.parametrize("invited", ["ab", "abc"])
def test_a_sum_over_fewer_than_the_study_says_is_refused(
    invited: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The threshold of two is two, and each of two can subtract itself."""
    study = study_of(privacy=PRIVATE, participation={"hospitals": 5, "min_hospitals": 4})
    run = Run(Sites(folder, study), study)

    refused = refusal(run, run.train(names=invited))

    assert refused.error == "ProtocolError"
    assert f"TooFew: {len(invited)} hospitals are invited, the study wants 4" in caplog.text
    assert run.sites.charges()["a"] == 0
    assert run.play(run.train(names="abcd")).weight == 4 * 20


def test_fewer_survivors_than_the_study_says_are_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three of four could open the sum, and the study wants all."""
    study = study_of(privacy=PRIVATE, participation={"hospitals": 4})
    run = Run(Sites(folder, study), study)
    request = run.train()
    masked = run.mask(request)

    refused = refusal(run, run.queries(request, masked, "abc")["a"])

    assert refused.error == "ProtocolError"
    assert "TooFew: 3 hospitals survived, the study wants 4" in caplog.text
    assert run.open(request, masked).size > 0


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_an_impossible_run_is_refused_as_every_other_lie_and_leaves_no_key(
    name: str, run: Run
) -> None:
    before = sorted(run.sites.state("a").rglob("*"))

    refused = refusal(run, AdvertiseQuery(run.study.digest(), name))

    assert refused.error == "ProtocolError"
    assert sorted(run.sites.state("a").rglob("*")) == before
