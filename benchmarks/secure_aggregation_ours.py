"""Fedward's side: real hospitals with identities, adverts and journals; a real `SecureSum`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from secure_aggregation_turns import Stopwatch, Time

from fedward.privacy.advert import RunKey
from fedward.privacy.clipping import clip_factor, clip_norm
from fedward.privacy.fixed_point import FixedPoint
from fedward.privacy.identity import Identity
from fedward.privacy.journal import Journal
from fedward.privacy.roster import Roster
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_hospital import SecureHospital, Trust
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest

STUDY, RUN = "5" * 64, "benchmark"
TRUST = Trust(colluding=0, min_honest=2)
CLIP = 10.0  # L2 norm; every update here is longer
WEIGHT = 0.5  # this hospital's weight, in units of the largest

Reals = NDArray[np.float64]


class Consortium:
    """Hospitals of one run; each `attempt` is a new round of it."""

    def __init__(self, hospitals: int, folder: Path) -> None:
        self.names = [f"hospital-{number:03}" for number in range(hospitals)]
        self.code = FixedPoint.for_bound(CLIP, hospitals)
        self._identities = {name: Identity.generate() for name in self.names}
        self._roster = Roster(1, {name: own.public for name, own in self._identities.items()})
        self._journals = {name: Journal(folder / f"{name}.sqlite") for name in self.names}
        self.all = {name: self.hospital(name) for name in self.names}
        self._adverts = {n: h.advertise(study=STUDY, run=RUN) for n, h in self.all.items()}
        self._round = 0

    def hospital(self, name: str) -> SecureHospital:
        """This hospital with a new run key."""
        return SecureHospital(
            name=name,
            identity=self._identities[name],
            run_key=RunKey.generate(),
            roster=self._roster,
            trust=TRUST,
            journal=self._journals[name],
        )

    def attempt(self, hospital: SecureHospital | None = None) -> Attempt:
        """The next round; with `hospital`'s own advert if it has a newer key."""
        self._round += 1
        adverts = dict(self._adverts)
        if hospital is not None:
            newer = hospital.advertise(study=STUDY, run=RUN)
            adverts[newer.hospital] = newer
        return Attempt(STUDY, RUN, self._round, 1, bytes(32), tuple(adverts.values()))


def client_time(consortium: Consortium, update: NDArray[np.float32]) -> Time:
    """One hospital's whole first round, keys and both exchanges included."""
    watch = Stopwatch()
    own = consortium.names[0]
    with watch.running():
        hospital = consortium.hospital(own)
        hospital.advertise(study=STUDY, run=RUN)
    attempt = consortium.attempt(hospital)
    with watch.running():
        masked = hospital.mask(attempt, encoded(consortium.code, update))
        masked.words.tobytes()
    shares = {own: masked.shares[own]}
    for name in consortium.names[1:]:
        other = consortium.all[name].mask(attempt, np.zeros(0, dtype=np.uint32))
        shares[name] = other.shares[own]
    request = UnmaskRequest(attempt, attempt.invited, shares)
    with watch.running():
        hospital.unmask(request)
    return watch.time


def encoded(code: FixedPoint, update: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Clipped, weighted and in fixed point, on one way through the update."""
    factor = clip_factor(update, CLIP) * WEIGHT
    return code.encode(update, rng=np.random.default_rng(), factor=factor)


@dataclass(frozen=True)
class Prepared:
    """All that hospitals say in one attempt, except for their vectors."""

    attempt: Attempt
    code: FixedPoint
    masked: dict[str, Masked]
    answers: dict[str, Unmasking]


def prepare(
    consortium: Consortium, dropped: int, updates: Iterable[NDArray[np.float32]] = ()
) -> Prepared:
    """Let all mask (empty vectors, if there are no updates), and all but some unmask."""
    attempt = consortium.attempt()
    vectors = [encoded(consortium.code, one) for one in updates]
    vectors = vectors or [np.zeros(0, dtype=np.uint32) for _ in consortium.names]
    masked = {
        name: consortium.all[name].mask(attempt, vector)
        for name, vector in zip(consortium.names, vectors, strict=True)
    }
    masked = dict(list(masked.items())[dropped:])
    total = SecureSum(attempt, size=vectors[0].size, threshold=_threshold(consortium))
    for name, one in masked.items():
        total.add(name, one)
    requests = total.unmask_requests()
    answers = {name: consortium.all[name].unmask(asked) for name, asked in requests.items()}
    return Prepared(attempt, consortium.code, masked, answers)


def aggregator_time(prepared: Prepared, vectors: Iterable[bytes], size: int) -> Time:
    """From the first masked vector, as bytes, to the mean update."""
    watch = Stopwatch()
    with watch.running():
        aggregate(prepared, vectors, size)
    return watch.time


def aggregate(prepared: Prepared, vectors: Iterable[bytes], size: int) -> Reals:
    """The mean update of the survivors, weighted alike."""
    threshold = TRUST.threshold(len(prepared.attempt.invited))
    total = SecureSum(prepared.attempt, size=size, threshold=threshold)
    for (name, said), vector in zip(prepared.masked.items(), vectors, strict=True):
        # As `fedward.study.wire` reads a vector: no copy.
        total.add(name, replace(said, words=np.frombuffer(vector, dtype="<u4")))
        del vector  # the server drops it too
    total.unmask_requests()
    for name, answer in prepared.answers.items():
        total.take(name, answer)
    update = prepared.code.decode(total.total())
    update /= WEIGHT * len(prepared.masked)
    return update


def error_of_sum(hospitals: int, dropped: int, size: int, folder: Path) -> float:
    """Largest error of a coordinate of the mean, in units of what the code allows."""
    consortium = Consortium(hospitals, folder)
    rng = np.random.default_rng(3)
    updates = [rng.standard_normal(size, dtype=np.float32) for _ in consortium.names]
    prepared = prepare(consortium, dropped, updates)
    found = aggregate(prepared, [one.words.tobytes() for one in prepared.masked.values()], size)
    plain = np.mean([clip_norm(one, CLIP).astype(float) for one in updates[dropped:]], axis=0)
    return float(np.abs(found - plain).max() * WEIGHT / consortium.code.error_bound)


def _threshold(consortium: Consortium) -> int:
    return TRUST.threshold(len(consortium.names))
