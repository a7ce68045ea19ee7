"""What a request asks, as one digest: two requests with it are the same question."""

from __future__ import annotations

import hashlib

import numpy as np

from fedward.privacy.framing import framed
from fedward.study.messages import MeasureRequest, Request, TrainRequest


def told_digest(request: Request) -> bytes:
    """Digest of what all hospitals must be told alike; the study's digest is bound in elsewhere."""
    if isinstance(request, MeasureRequest):
        return hashlib.sha256(framed("fedward/1/told", "measure")).digest()
    kind, part = (
        ("train", request.monitor or "")
        if isinstance(request, TrainRequest)
        else ("evaluate", request.part)
    )
    model = hashlib.sha256(np.ascontiguousarray(request.model, dtype="<f4").data).digest()
    told: list[str | bytes] = ["fedward/1/told", kind, part, model]
    if request.scaling is not None:
        numbers = (*request.scaling.centers, *request.scaling.scales)
        told.append(np.array(numbers, dtype="<f8").tobytes())
    return hashlib.sha256(framed(*told)).digest()
