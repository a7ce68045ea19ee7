"""Sums over hospitals: who can read what leaves one, and which sums no study may ask for."""

from __future__ import annotations

from fedward.study.aggregation import Aggregation
from fedward.study.participation import Participation
from fedward.study.threshold import colluders_nearby, neighbourhood, shares_needed


def sums_sentence(terms: Aggregation, who: Participation) -> str:
    """Who can read what leaves a hospital, in a sentence for people."""
    asked = who.asked
    if not terms.secure:
        return (
            "Sums are plain (secure = false): whoever runs the aggregator can read each "
            "hospital's update and metrics."
        )
    needed = shares_needed(hospitals=asked, colluding=terms.colluding, min_honest=terms.min_honest)
    fewest = max(needed, who.fewest)
    aside = f", even if {terms.colluding} side with it" if terms.colluding else ""
    return (
        f"Sums are secure: the aggregator reads only sums over at least {fewest} of the "
        f"hospitals{aside}."
    )


def refuse_impossible_sums(terms: Aggregation, who: Participation) -> None:
    """A secure sum that could never be opened, or that would hide nobody, is no study.

    Raises:
        ValueError: It is such a sum.
    """
    if who.asked == 1:
        raise ValueError("at least 2 hospitals in a secure sum, or aggregation.secure = false")
    for hospitals in {who.asked, who.hospitals}:
        needed = shares_needed(
            hospitals=hospitals, colluding=terms.colluding, min_honest=terms.min_honest
        )
        trains = hospitals == who.asked  # whoever judges is waited for as the threshold needs
        if trains and who.min_hospitals is not None and who.min_hospitals < needed:
            near = neighbourhood(hospitals)
            colluding = colluders_nearby(hospitals=hospitals, colluding=terms.colluding)
            raise ValueError(
                f"participation.min_hospitals >= {needed}, not {who.min_hospitals}: of {near} "
                f"hospitals that share masks, floor(({near} + {colluding} colluding + "
                f"{terms.min_honest} honest - 1) / 2) + 1 = {needed} must answer, or nobody unmasks"
            )
        # A weight is a multiple of 2**-16 in two words, whose low bits leave room for the sum.
        room = ((2**31 - 1) // hospitals) << (31 - (hospitals - 1).bit_length())
        if terms.largest_weight * 2**16 > room:
            raise ValueError(
                f"aggregation.max_records <= {room // 2**16} with {hospitals} hospitals, not "
                f"{terms.largest_weight}: the sum of weights must fit its words"
            )
    if who.fewest == 2 and not terms.two_hospitals:
        raise ValueError(
            "3 hospitals in every secure sum: each of two can subtract its own update and read the "
            "other's; say aggregation.two_hospitals = true if they may"
        )
