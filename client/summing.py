"""How what a hospital adds leaves it: in the clear, where a study says so, or masked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from fedward.client.asked import told_digest
from fedward.client.hospital import HospitalFile
from fedward.client.kept_words import KeptWords
from fedward.client.membership import read_membership
from fedward.privacy.advert import RunKey, pack, unpack
from fedward.privacy.contribution import Layout, Summand, failed
from fedward.privacy.encoding import Encoding
from fedward.privacy.framing import framed
from fedward.privacy.journal import Journal
from fedward.privacy.plain_sum import plain_vector
from fedward.privacy.protocol_errors import BadRequest
from fedward.privacy.secure_hospital import SecureHospital, Trust
from fedward.privacy.secure_messages import Attempt, UnmaskRequest
from fedward.study.errors import RefusedError, TrainingError
from fedward.study.messages import (
    Advertised,
    AdvertiseQuery,
    Contribution,
    EvaluateRequest,
    Invitation,
    MaskedContribution,
    MeasureRequest,
    Request,
    TrainRequest,
    Unmasked,
    UnmaskQuery,
    Vector,
    Words,
)
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

Allow = Callable[[], None]
Work = Callable[[], Summand]

_LOG = logging.getLogger("fedward.client")
_LONGEST_RUN = 128  # characters, as in an advert


class Summing(Protocol):
    """One way in which contributions leave."""

    def advertise(self, query: AdvertiseQuery) -> Advertised:
        """This hospital's key for a run."""

    def contribute(
        self, request: Request, allow: Allow, work: Work, layout: Layout, rng: np.random.Generator
    ) -> Contribution | MaskedContribution:
        """The answer to a request; `work` is done only if the request may be answered at all.

        Args:
            request: What was asked.
            allow: Raises what can be said against the request without looking at a record.
            work: Trains or judges, and says what this hospital adds.
            layout: Of what it adds.
            rng: For roundings, which are no secret.
        """

    def unmask(self, query: UnmaskQuery) -> Unmasked:
        """This hospital's help to open a sum."""


class PlainSumming:
    """Whoever runs the aggregator can read what leaves."""

    def __init__(
        self, hospital: str, kept: KeptWords | None = None, *, judging: bool = False
    ) -> None:
        """Take the hospital's name.

        Args:
            hospital: Its name.
            kept: Where a private round's contribution is kept, so that it is charged once; None
                for a study that is not private.
            judging: Whether judging is charged, and kept too.
        """
        self._hospital = hospital
        self._kept = kept
        self._charged = (MeasureRequest, TrainRequest, *([EvaluateRequest] if judging else []))

    def advertise(self, query: AdvertiseQuery) -> Advertised:
        """Refused with RefusedError: there is no key."""
        raise _not_secure()

    def contribute(
        self, request: Request, allow: Allow, work: Work, layout: Layout, rng: np.random.Generator
    ) -> Contribution:
        """The contribution itself; of a repeated private round the one that was made at first.

        Raises:
            RefusedError: The aggregator takes the study's sums for secure ones.
        """
        if request.invitation is not None:
            raise _not_secure()
        allow()
        if self._kept is None or not isinstance(request, self._charged):
            return Contribution(self._hospital, _plain(work))
        told = told_digest(request)
        words = self._kept.read(request.round, told, size=layout.size)
        if words is None:
            words = _plain(work).view(np.uint32)
            self._kept.write(request.round, told, words)
        return Contribution(self._hospital, words.view(np.float32))

    def unmask(self, query: UnmaskQuery) -> Unmasked:
        """Refused with RefusedError: nothing was masked."""
        raise _not_secure()


class SecureSumming:
    """What leaves can only be added up."""

    def __init__(
        self, hospital: str, secure: SecureHospital, study: Study, kept: KeptWords
    ) -> None:
        """Take the hospital's side of the protocol for one run.

        Args:
            hospital: Its name.
            secure: Keys, roster, journal.
            study: The run's.
            kept: Where a round's contribution is kept, so that it is charged once.
        """
        self._hospital = hospital
        self._secure = secure
        self._study = study
        self._kept = kept

    def advertise(self, query: AdvertiseQuery) -> Advertised:
        """This hospital's signed public key for the run."""
        advert = self._secure.advertise(study=query.study, run=query.run)
        return Advertised(self._hospital, pack(advert))

    def contribute(
        self, request: Request, allow: Allow, work: Work, layout: Layout, rng: np.random.Generator
    ) -> MaskedContribution:
        """The contribution, masked; of a repeated round the one that was made at first.

        Raises:
            RefusedError: The aggregator takes the study's sums for plain ones.
            ProtocolError: The attempt does not hold together, or was answered before.
        """
        if request.invitation is None:
            raise RefusedError(
                "this study's sums are secure, and a plain one was asked for",
                todo="run the aggregator with the study as it was approved",
            )
        most = self._most_invited(request)
        if len(request.invitation.adverts) > most:
            raise BadRequest(
                f"{len(request.invitation.adverts)} hospitals are invited, the study allows {most}",
                todo="see the aggregator's log",
            )
        if not request.round and not isinstance(request, MeasureRequest):
            raise BadRequest("no such round", todo="see the aggregator's log")
        attempt = _attempt(request, request.invitation, told_digest(request))
        self._secure.admit(attempt)
        allow()
        code = Encoding(layout, self._study.aggregation, hospitals=most)
        words = self._kept.read(request.round, attempt.told, size=code.size)
        if words is None:
            self._secure.reserve(attempt)
            words = _encoded(work, code, layout, rng)
            self._kept.write(request.round, attempt.told, words)
        return MaskedContribution(self._hospital, self._secure.mask(attempt, words))

    def unmask(self, query: UnmaskQuery) -> Unmasked:
        """Shares and seeds for the survivors' sum.

        Raises:
            ProtocolError: The query does not hold together, or the round was unmasked for others.
        """
        number = query.invitation.attempt
        told = self._secure.told(run=query.run, server_round=query.round, attempt=number)
        attempt = _attempt(query, query.invitation, told)
        ask = UnmaskRequest(attempt, query.survivors, query.shares)
        return Unmasked(self._hospital, self._secure.unmask(ask))

    def _most_invited(self, request: Request) -> int:
        """Everybody judges; the study says how many train."""
        who = self._study.participation
        return who.asked if isinstance(request, TrainRequest) else who.hospitals


def _plain(work: Work) -> Vector:
    """What the work gives, for everybody to read.

    Raises:
        TrainingError: The work failed, or what it gave is NaN or infinite.
    """
    summand = work()
    vector = plain_vector(summand)
    summand.left()
    return vector


def _encoded(work: Work, code: Encoding, layout: Layout, rng: np.random.Generator) -> Words:
    """What the work gives; of work that fails nothing but that it failed, and that in the sum.

    The aggregator chooses the model. If a hospital declined wherever its records make training or
    a metric overflow, declining would tell something about them.
    """
    try:
        summand = work()
        words = code.encode(summand, rng=rng)
    except TrainingError as error:
        _LOG.error("counted as failed: %s", error)
        return code.encode(failed(layout), rng=rng)
    summand.left()
    return words


def make_summing(hospital: HospitalFile, folder: Path, study: Study, *, run: str) -> Summing:
    """The way that a study asks for, with this hospital's keys.

    Args:
        hospital: The hospital's file.
        folder: The folder of that file, which its paths are relative to.
        study: Whose run it is.
        run: The run's name.

    Raises:
        RefusedError: The sums are secure and the hospital is in no consortium.
        DataError: Its roster, its keys or the run's state cannot be used.
        BadRequest: The run's name is none.
    """
    if not 1 <= len(run) <= _LONGEST_RUN:
        raise BadRequest("no possible name of a run", todo="see the aggregator's log")
    own = run_folder(folder / hospital.state, study, run)
    durable = hospital.simulation is None
    kept = KeptWords(own, durable=durable)
    if not study.aggregation.secure:
        private = isinstance(study.privacy, LocalPrivacy)
        judging = study.evaluation_noise is not None
        return PlainSumming(hospital.name, kept if private else None, judging=judging)
    membership = read_membership(hospital, folder)
    for folder_ in (own.parent, own):  # a parent made on the way would be readable for others
        folder_.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, journal = own / "run-key.pem", own / "journal.sqlite"
    if not journal.exists():
        key.unlink(missing_ok=True)  # what was said under it is not remembered
    remembered = Journal(journal, durable=durable)
    secure = SecureHospital(
        name=membership.name,
        identity=membership.identity,
        run_key=RunKey.kept(key),
        roster=membership.roster,
        trust=Trust(
            study.aggregation.colluding,
            study.aggregation.min_honest,
            study.participation.fewest,
        ),
        journal=remembered,
    )
    return SecureSumming(membership.name, secure, study, kept)


def run_folder(state: Path, study: Study, run: str) -> Path:
    """The folder of a run in the hospital's folder of state."""
    return state / "runs" / hashlib.sha256(framed(study.digest(), run)).hexdigest()


def _attempt(request: Request | UnmaskQuery, invitation: Invitation, told: bytes) -> Attempt:
    return Attempt(
        study=request.study,
        run=request.run,
        round=request.round,
        attempt=invitation.attempt,
        told=told,
        adverts=tuple(unpack(advert) for advert in invitation.adverts),
    )


def _not_secure() -> RefusedError:
    return RefusedError(
        "this study's sums are plain, and a secure one was asked for",
        todo="run the aggregator with the study as it was approved",
    )
