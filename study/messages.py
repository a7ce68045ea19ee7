"""What server and hospitals say to each other, as plain values.

    server                                     hospital
      | OFFER      OfferQuery -----------------> |   a signed study and roster, for a person to read
      |            <------ Considered, or Refusal |
      | ADVERTISE  AdvertiseQuery --------------> |   a key for this run (secure sums only)
      |            <------- Advertised, or Refusal |
      | MEASURE    MeasureRequest -------------> |   sums for scaling constants (where a study asks)
      |            <--- Contribution or Masked, or Refusal
      | TRAIN      TrainRequest ---------------> |   policy, budget, local training
      |            <--- Contribution or Masked, or Refusal
      | EVALUATE   EvaluateRequest ------------> |   metric sums of one part
      |            <--- Contribution or Masked, or Refusal
      | UNMASK     UnmaskQuery ----------------> |   help to open the sum (secure sums only)
      |            <--------- Unmasked, or Refusal |

`wire` turns them into Flower's records and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedward.study.scaling import Scaling
from fedward.study.version import VERSION

OFFER = "query.offer"
ADVERTISE = "query.advertise"
MEASURE = "query.measure"
TRAIN = "train"
EVALUATE = "evaluate"
UNMASK = "query.unmask"

Part = Literal["train", "validation", "test"]
Vector = NDArray[np.float32]
Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Invitation:
    """Whom a secure sum is over.

    Attributes:
        attempt: From 1; a repeated exchange counts up.
        adverts: The packed adverts of all who are invited.
    """

    attempt: int
    adverts: tuple[bytes, ...]


@dataclass(frozen=True)
class OfferQuery:
    """Consider a study, and learn who belongs to the consortium.

    Attributes:
        study: Digest of the study.
        run: Name of the run.
        signed: The study's document, signed by the coordinator.
        roster: The roster's document, signed by the coordinator.
        version: Of Fedward at the server.
    """

    study: str
    run: str
    signed: bytes
    roster: bytes
    version: str = VERSION


@dataclass(frozen=True)
class AdvertiseQuery:
    """Make a key for this run known."""

    study: str
    run: str
    version: str = VERSION


@dataclass(frozen=True)
class MeasureRequest:
    """Add up what the study's scaling constants are made of, over your training patients.

    Attributes:
        study: Digest of the study.
        run: Name of the run.
        round: 0: it comes before all rounds.
        invitation: Whom the sum is over; None where it is plain.
        version: Of Fedward at the server.
    """

    study: str
    run: str
    round: int = 0
    invitation: Invitation | None = None
    version: str = VERSION


@dataclass(frozen=True)
class TrainRequest:
    """Train this model on your records, and judge it as it came on the part `monitor`.

    Attributes:
        study: Digest of the study.
        run: Name of the run.
        round: From 1.
        model: The round's model, shape (d,), float32; with SCAFFOLD the control variate follows.
        monitor: The part whose metric sums ride on the answer; none if None.
        invitation: Whom the sum is over; None where it is plain.
        scaling: What was measured; None in a study that measures nothing.
        counted: For an algorithm whose hospitals remember what they added, each hospital's last
            round that came into a sum, by its name; it goes on from there.
        version: Of Fedward at the server.
    """

    study: str
    run: str
    round: int
    model: Vector
    monitor: Part | None = None
    invitation: Invitation | None = None
    scaling: Scaling | None = None
    counted: Mapping[str, int] = field(default_factory=dict)
    version: str = VERSION


@dataclass(frozen=True)
class EvaluateRequest:
    """Judge this model on one part of your records.

    Attributes:
        round: Number of this exchange, `study.judging_round(part)`.
    """

    study: str
    run: str
    round: int
    model: Vector
    part: Part
    invitation: Invitation | None = None
    scaling: Scaling | None = None
    version: str = VERSION


@dataclass(frozen=True)
class UnmaskQuery:
    """Help to open the sum over those who answered.

    Attributes:
        round: Of the exchange that was masked.
        invitation: As it was masked for.
        survivors: Names of those whose masked vectors were added up.
        shares: The sealed shares that they addressed to this hospital, by their sender.
    """

    study: str
    run: str
    round: int
    invitation: Invitation
    survivors: tuple[str, ...]
    shares: Mapping[str, bytes]
    version: str = VERSION


@dataclass(frozen=True)
class Considered:
    """Whether the study is approved at this hospital by now."""

    hospital: str
    approved: bool


@dataclass(frozen=True)
class Advertised:
    """A hospital's packed advert."""

    hospital: str
    advert: bytes


@dataclass(frozen=True)
class Contribution:
    """What one hospital adds to the sum.

    Attributes:
        hospital: Its name.
        vector: Shape (n,), float32; only sums of it over hospitals have a meaning.
    """

    hospital: str
    vector: Vector


@dataclass(frozen=True)
class Masked:
    """A masked vector: nothing can be read from it alone.

    Attributes:
        words: Shape (n,), uint32.
        shares: For each hospital of its closed neighbourhood (everybody, up to 64 invited), the
            sealed share of this hospital's self mask.
        commitment: SHA-256 of the self mask's seed, by which false shares are noticed.
    """

    words: Words
    shares: Mapping[str, bytes]
    commitment: bytes


@dataclass(frozen=True)
class MaskedContribution:
    """What one hospital adds to a secure sum."""

    hospital: str
    masked: Masked


@dataclass(frozen=True)
class Unmasking:
    """What a survivor gives away.

    Attributes:
        self_shares: Its share of the self mask of each survivor in its closed neighbourhood.
        pair_seeds: Its pair seed with each neighbour that dropped out.
    """

    self_shares: Mapping[str, bytes]
    pair_seeds: Mapping[str, bytes]


@dataclass(frozen=True)
class Unmasked:
    """One survivor's help."""

    hospital: str
    unmasking: Unmasking


@dataclass(frozen=True)
class Refusal:
    """A hospital's typed no: the name of the error, what is wrong and what to do."""

    hospital: str
    error: str
    what: str
    todo: str


Request = MeasureRequest | TrainRequest | EvaluateRequest
Query = OfferQuery | AdvertiseQuery | UnmaskQuery
Answer = Considered | Contribution | MaskedContribution | Advertised | Unmasked | Refusal
