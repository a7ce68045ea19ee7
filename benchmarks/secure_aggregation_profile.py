"""Where the time of one hospital's round goes."""

from __future__ import annotations

import os
import statistics

import numpy as np
from secure_aggregation_ours import CLIP, WEIGHT, Consortium, client_time
from secure_aggregation_turns import Limits, Side, in_turns, normal_vector, timed

from fedward.privacy.clipping import clip_factor
from fedward.privacy.masks import add_masks

LIMITS = Limits(most=5, seconds=10)
REST = "the rest"  # keys, adverts, shares, the journal


def client_parts(consortium: Consortium, size: int) -> dict[str, float]:
    """Milliseconds of processor time of each part, medians; `REST` is what is left of the whole."""
    update, words = normal_vector(size), np.zeros(size, dtype=np.uint32)
    seeds = [(os.urandom(32), 1) for _ in consortium.names]
    rng = np.random.default_rng()
    factor = clip_factor(update, CLIP) * WEIGHT
    parts: dict[str, Side] = {
        "norm": lambda: timed(lambda: clip_factor(update, CLIP)),
        "encode": lambda: timed(lambda: consortium.code.encode(update, rng=rng, factor=factor)),
        "masks": lambda: timed(lambda: add_masks(words, seeds)),
        "to bytes": lambda: timed(words.tobytes),
        "whole": lambda: client_time(consortium, update),
    }
    times = in_turns(parts, LIMITS)
    found = {
        part: 1e3 * statistics.median(time.processor for time in times[part]) for part in parts
    }
    found[REST] = 2 * found["whole"] - sum(found.values())
    return {part: round(ms, 2) for part, ms in found.items()}
