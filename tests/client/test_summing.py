"""How contributions leave a hospital: once trained, once charged, and only as the study says."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedward.privacy.advert import check_advert, unpack
from fedward.privacy.contribution import Total
from fedward.privacy.identity import Identity
from fedward.privacy.key_file import read_key
from fedward.privacy.plain_sum import PlainSum
from fedward.privacy.roster import Roster, read_roster, sign_roster
from fedward.study.messages import (
    Answer,
    Contribution,
    Query,
    Refusal,
    Request,
    Unmasked,
    UnmaskQuery,
)
from fedward.study.study import Study
from tests.privacy.conftest import fast_folder
from tests.secure_sites import PRIVATE, Run, Sites, again, study_of

ONCE = {"a": 1, "b": 1, "c": 1}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Journals wait for the disk, so they lie in memory where that can be."""
    with fast_folder() as found:
        yield found


@pytest.fixture
def private(folder: Path) -> Run:
    """Three hospitals whose every training is charged, and is never the same twice."""
    study = study_of(privacy=PRIVATE)
    return Run(Sites(folder, study), study)


def refusal(run: Run, request: Request | Query, name: str = "a") -> Refusal:
    answer: Answer = run.sites[name].answer(lambda: request)
    assert isinstance(answer, Refusal), answer
    return answer


def same(one: Total, other: Total) -> bool:
    return (
        np.array_equal(one.update, other.update)
        and np.array_equal(one.metrics, other.metrics)
        and one.weight == other.weight
    )


# --- One training a round -------------------------------------------------------------------------


def test_the_sum_is_that_of_the_contributions_in_the_clear(folder: Path) -> None:
    """Hospitals of one seed train alike, whatever becomes of their updates."""
    secure, clear = study_of(), study_of(aggregation={"secure": False})
    run = Run(Sites(folder / "secure", secure, seed=5), secure)
    plain = Run(Sites(folder / "plain", clear, seed=5), clear)
    request = replace(run.train(), monitor="validation")
    summed = PlainSum(run.layout(request))
    for name in plain.sites.names:
        asked = replace(request, study=clear.digest(), invitation=None)
        answer = plain.sites[name].answer(lambda asked=asked: asked)  # type: ignore[misc]
        assert isinstance(answer, Contribution), answer
        summed.add(answer.vector)
    expected = summed.total()

    found = run.play(request)

    assert found.weight == expected.weight > 0
    assert np.array_equal(found.metrics[2:], expected.metrics[2:])  # counts; [1] is the loss
    assert found.metrics[0] == expected.metrics[0] > 0
    assert found.metrics[1] == pytest.approx(expected.metrics[1], rel=1e-6, abs=3 * 2**-17)
    # Three roundings of at most 64 * 10 / floor((2**31 - 1) / 3), and those of float32.
    step = 3 * 64 * 10 / ((2**31 - 1) // 3) / found.weight
    wrong = np.abs(found.update - expected.update).max()
    assert wrong <= step + np.abs(expected.update).max() * 2**-22
    assert np.abs(expected.update).max() > 1000 * step


@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_a_repeated_round_masks_the_same_contribution_and_is_charged_once(
    restarted: bool, private: Run
) -> None:
    first = private.play(private.train())
    for attempt in (2, 3, 7):
        if restarted:
            private.sites.restart()

        assert same(private.play(again(private.train(), attempt)), first)

    assert private.sites.charges() == ONCE


def test_two_trainings_would_not_have_been_the_same(private: Run) -> None:
    """The ground under the test above: another round from the same model gives another update."""
    first, second = (private.play(private.train(number)) for number in (1, 2))

    assert np.abs(first.update - second.update).max() > 1e-3
    assert private.sites.charges() == {"a": 2, "b": 2, "c": 2}


def test_a_process_that_ended_before_anybody_was_unmasked_is_no_loss(private: Run) -> None:
    request = private.train()
    masked = private.mask(request)
    private.sites.restart()

    total = private.code(request).decode(private.open(request, masked))

    assert total.weight > 0
    assert private.sites.charges() == ONCE


def test_a_repeated_attempt_says_something_new_on_the_wire(private: Run) -> None:
    """The same contribution under other masks: no two words in a thousand are alike."""
    one, other = (private.mask(again(private.train(), n))["a"].words for n in (1, 2))

    assert one.shape == other.shape
    assert float(np.mean(one == other)) < 0.01


def test_judging_is_repeated_too(private: Run) -> None:
    first = private.play(private.evaluate("test"))
    private.sites.restart()

    assert same(private.play(private.evaluate("test", attempt=2)), first)
    assert first.metrics[0] > 0
    assert private.sites.charges() == {"a": 0, "b": 0, "c": 0}


def four(folder: Path) -> Run:
    """Four hospitals, three of which are enough."""
    study = study_of(privacy=PRIVATE, participation={"hospitals": 4, "min_hospitals": 3})
    return Run(Sites(folder, study), study)


def test_whoever_drops_out_is_made_up_for_by_the_next_attempt(folder: Path) -> None:
    """d masks for the first attempt only; the second is opened without it."""
    run = four(folder)
    run.mask(run.train())
    request = run.train(attempt=2)

    total = run.code(request).decode(run.open(request, run.mask(request, "abc")))

    assert total.weight == 3 * 20  # the declared patients
    assert run.sites.charges() == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_a_round_is_over_the_same_hospitals_in_all_its_attempts(folder: Path) -> None:
    run = four(folder)
    run.play(run.train())

    said = refusal(run, run.train(attempt=2, names="abc"))

    assert said.error == "ProtocolError"
    assert run.play(run.train(attempt=2)).weight == 4 * 20
    assert run.sites.charges() == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_help_may_be_asked_for_twice(private: Run) -> None:
    """Its answer may have been lost; a restart in between does not matter."""
    request = private.train()
    query = private.queries(request, private.mask(request))["a"]
    first = private.sites["a"].answer(lambda: query)
    private.sites.restart()

    assert isinstance(first, Unmasked)
    assert private.sites["a"].answer(lambda: query) == first


# --- What the study does not allow ----------------------------------------------------------------


def test_a_plain_request_to_a_secure_study_is_refused(private: Run) -> None:
    for request in (private.train(), private.evaluate()):
        said = refusal(private, replace(request, invitation=None))

        assert said.error == "RefusedError"
        assert "sums are secure, and a plain one was asked for" in said.what
    assert private.sites.charges() == {"a": 0, "b": 0, "c": 0}
    assert private.play(private.train()).weight > 0


def test_a_secure_request_to_a_plain_study_is_refused(private: Run) -> None:
    clear = study_of(privacy=PRIVATE, aggregation={"secure": False})
    private.sites.approve(clear)
    plain = Run(private.sites, clear)
    plain.adverts = private.adverts
    requests: list[Request | Query] = [
        plain.train(),
        plain.evaluate(),
        plain.advertise(),
        UnmaskQuery(clear.digest(), "run-1", 1, plain.invitation(), ("a", "b", "c"), {}),
    ]
    for request in requests:
        said = refusal(plain, request)

        assert said.error == "RefusedError"
        assert "sums are plain, and a secure one was asked for" in said.what
    assert private.sites.charges() == {"a": 0, "b": 0, "c": 0}


def test_a_round_asked_for_with_another_model_is_refused(private: Run) -> None:
    private.play(private.train())
    another = replace(again(private.train(), 2), model=private.model + np.float32(1))

    assert refusal(private, another).error == "ProtocolError"
    assert private.sites.charges() == ONCE


def test_a_round_asked_for_with_another_part_to_judge_is_refused(private: Run) -> None:
    private.play(private.train())
    another = replace(again(private.train(), 2), monitor="test")

    assert refusal(private, another).error == "ProtocolError"


def test_a_round_that_is_over_is_refused_before_it_is_trained_or_charged(private: Run) -> None:
    """Its kept contribution is gone, so it would be trained for anew."""
    private.play(private.train(1))
    private.play(private.train(2))
    before = private.sites.charges()

    for number in (1, 2):
        assert refusal(private, again(private.train(1), number)).error == "ProtocolError"
    assert private.sites.charges() == before


def test_a_round_that_the_study_does_not_have_costs_nothing(private: Run) -> None:
    said = refusal(private, private.train(4))

    assert "round 4 is none of the study's 3" in said.what
    assert private.sites.charges() == {"a": 0, "b": 0, "c": 0}


def test_what_could_not_be_trained_may_be_asked_again(private: Run) -> None:
    """A model of another size; nothing was masked, so the honest request is the first."""
    wrong = replace(private.train(), model=np.zeros(99, dtype=np.float32))

    assert refusal(private, wrong).error == "TrainingError"
    assert private.sites.charges() == {"a": 0, "b": 0, "c": 0}
    assert private.play(private.train()).weight > 0


def invited_of_four(folder: Path) -> Run:
    study: Study = study_of(privacy=PRIVATE, participation={"hospitals": 4, "invited": 3})
    return Run(Sites(folder, study), study)


def test_more_than_the_study_invites_to_train_are_refused(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With more summands than it was scaled for the sum could wrap around."""
    run = invited_of_four(folder)

    said = refusal(run, run.train())

    assert said.error == "ProtocolError"
    assert "BadRequest: 4 hospitals are invited, the study allows 3" in caplog.text
    assert run.sites.charges()["a"] == 0


def test_everybody_may_judge_whoever_trains(folder: Path) -> None:
    run = invited_of_four(folder)
    run.mask(run.train(names="abd"), "abd")

    total = run.play(run.evaluate("test"))

    assert total.metrics[0] > 0


def test_a_withdrawn_approval_ends_the_help(private: Run) -> None:
    request = private.train()
    query = private.queries(request, private.mask(request))["a"]
    for file in (private.sites.files["a"].parent / "studies").iterdir():
        file.unlink()

    assert "is not approved here" in refusal(private, query).what


# --- Keys and files -------------------------------------------------------------------------------


def test_the_advert_is_signed_by_the_member_and_stays_the_same(private: Run) -> None:
    file = private.sites.files["a"]
    hospital = private.sites["a"].hospital
    assert hospital.consortium is not None
    roster = read_roster(
        (file.parent / hospital.consortium.roster).read_bytes(),
        bytes.fromhex(hospital.consortium.coordinator),
    )
    before = dict(private.adverts)
    for name, packed in before.items():
        advert = unpack(packed)
        assert advert.hospital == name
        check_advert(advert, roster, study=private.study.digest(), run="run-1")

    private.sites.restart()

    assert Run(private.sites, private.study).adverts == before


def test_every_run_and_study_has_a_key_of_its_own(private: Run) -> None:
    other = study_of(study={"name": "other"})
    private.sites.approve(other)
    runs = [
        private,
        Run(private.sites, private.study, "run-2"),
        Run(private.sites, other),
    ]

    keys = [unpack(run.adverts[name]).public_key for run in runs for name in "abc"]

    assert len(set(keys)) == 9


@pytest.mark.parametrize("umask", [0, 0o022])
def test_only_the_owner_may_read_keys_journal_and_kept_words(umask: int, private: Run) -> None:
    before = os.umask(umask)
    try:
        private.play(private.train())
    finally:
        os.umask(before)

    state = private.sites.state("a")
    files = [path for path in state.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".pem", ".sqlite", ".words"} <= kinds
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    run_folder = next(path.parent for path in files if path.suffix == ".words")
    assert stat.S_IMODE(run_folder.stat().st_mode) == 0o700


def test_a_run_key_that_others_may_use_is_not_used(private: Run) -> None:
    private.mask(private.train())
    for key in private.sites.state("a").rglob("*.pem"):
        key.chmod(0o644)
    private.sites.restart()

    said = refusal(private, again(private.train(), 2))

    assert (said.error, said.what) == ("DataError", "could not finish")


def test_no_log_holds_a_secret(private: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    request = private.train()
    masked = private.mask(request)
    queries = private.queries(request, masked)
    helped = private.sites["a"].answer(lambda: queries["a"])
    assert isinstance(helped, Unmasked)
    broken = replace(queries["b"], shares={**queries["b"].shares, "c": b"nothing"})
    refusal(private, broken, "b")
    refusal(private, again(request, 1))
    (kept,) = private.sites.state("a").rglob("*.words")
    (key_file,) = private.sites.state("a").rglob("run-key.pem")
    key = read_key(key_file)
    assert isinstance(key, X25519PrivateKey)
    identity = (private.sites.files["a"].parent / "identity.pem").read_text("ascii")
    secrets = {
        "run key": key.private_bytes_raw(),
        "kept words": kept.read_bytes()[:32],
        **{f"share of {name}": share for name, share in helped.unmasking.self_shares.items()},
    }

    said = caplog.text
    assert "BadSeal" in said
    assert "Replayed" in said
    for what, secret in secrets.items():
        assert secret.hex() not in said, what
        assert repr(secret)[2:-1] not in said, what
    assert identity.splitlines()[1] not in said
    assert str([*np.frombuffer(kept.read_bytes()[:16], dtype="<u4")]) not in said


# --- Whoever is no member -------------------------------------------------------------------------


def test_a_hospital_in_no_consortium_says_so(private: Run) -> None:
    file = private.sites.files["a"]
    lines = file.read_text("utf-8").split("[consortium]")[0]
    file.write_text(lines, "utf-8")

    said = refusal(private, private.advertise())

    assert said.error == "RefusedError"
    assert "in no consortium" in said.what
    assert "[consortium]" in said.todo


def test_what_is_wrong_with_its_files_is_nobody_s_business(
    private: Run, caplog: pytest.LogCaptureFixture
) -> None:
    identity = private.sites.files["a"].parent / "identity.pem"
    identity.unlink()
    Identity.generate().save(identity)

    said = refusal(private, private.advertise())

    assert (said.error, said.what) == ("DataError", "could not finish")
    assert "does not name 'a' with this hospital's key" in caplog.text


# --- A roster that is exchanged while the process stays warm --------------------------------------


def test_a_roster_that_staff_install_counts_from_the_next_round(private: Run) -> None:
    """Without a restart: who has left the consortium is told nothing any more."""
    private.play(private.train(1))
    roster = private.sites.files["a"].parent.with_name("roster.json")
    before = read_roster(roster.read_bytes(), private.sites.coordinator.public)
    members = {name: key for name, key in before.members.items() if name != "c"}
    roster.write_bytes(sign_roster(Roster(2, members), private.sites.coordinator))

    for name in private.sites.names:
        said = refusal(private, private.train(2), name)
        assert said.error in {"ProtocolError", "DataError"}
    assert private.sites.charges() == ONCE


def test_while_the_roster_stays_the_keys_stay_warm(private: Run) -> None:
    private.play(private.train(1))
    (way,) = private.sites["a"]._ways.values()
    private.play(private.train(2))

    assert list(private.sites["a"]._ways.values()) == [way]


def test_a_roster_that_is_gone_is_refused_at_once(private: Run) -> None:
    private.play(private.train(1))
    private.sites.files["a"].parent.with_name("roster.json").unlink()

    assert refusal(private, private.train(2)).error == "DataError"
