"""What server and hospitals say to each other, as plain values.

    server                                   hospital
      | TRAIN     TrainRequest  ------------->  |   policy, budget, local training
      |           <--- Contribution, or Refusal |
      | EVALUATE  EvaluateRequest ----------->  |   metric sums of one part
      |           <--- Contribution, or Refusal |

`wire` turns them into Flower's records and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedward.study.version import VERSION

TRAIN = "train"
EVALUATE = "evaluate"

Part = Literal["train", "validation", "test"]
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class TrainRequest:
    """Train this model on your records, and judge it as it came on the part `monitor`.

    Attributes:
        study: Digest of the study.
        run: Name of the run.
        round: From 1.
        model: The round's model, shape (d,), float32.
        monitor: The part whose metric sums ride on the answer; none if None.
        version: Of Fedward at the server.
    """

    study: str
    run: str
    round: int
    model: Vector
    monitor: Part | None = None
    version: str = VERSION


@dataclass(frozen=True)
class EvaluateRequest:
    """Judge this model on one part of your records."""

    study: str
    run: str
    round: int
    model: Vector
    part: Part
    version: str = VERSION


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
class Refusal:
    """A hospital's typed no: the name of the error, what is wrong and what to do."""

    hospital: str
    error: str
    what: str
    todo: str


Request = TrainRequest | EvaluateRequest
Answer = Contribution | Refusal
