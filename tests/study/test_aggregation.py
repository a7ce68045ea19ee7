"""Numbers of `[aggregation]` that can never give a sum, or one that hides nobody, are no study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedward.study.aggregation import FedAvg, QFedAvg
from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study, read_study

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]


def changes(
    *,
    hospitals: int,
    strategy: str = "fedavg",
    who: Values | None = None,
    **terms: Any,  # noqa: ANN401
) -> dict[str, object]:
    return {
        "participation": {"hospitals": hospitals, **(who or {})},
        "aggregation": {"strategy": strategy, **terms},
    }


def refusal(values_with: ValuesWith, changed: Mapping[str, object]) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(values_with(changed))
    return str(caught.value)


# --- Which numbers work ---------------------------------------------------------------------------


@given(
    hospitals=st.integers(1, 12),
    colluding=st.integers(0, 6),
    honest=st.integers(2, 5),
    fewest=st.none() | st.integers(1, 12),
    two=st.booleans(),
)
def test_a_secure_study_is_one_whose_sums_can_be_opened_and_hide_everybody(
    hospitals: int,
    colluding: int,
    honest: int,
    fewest: int | None,
    two: bool,
    values_with: ValuesWith,
) -> None:
    """t is the first whole number above (n + c + k - 1) / 2; that many of n must answer."""
    needed = next(t for t in range(1, 99) if 2 * t > hospitals + colluding + honest - 1)
    answering = hospitals if fewest is None else fewest
    possible = needed <= answering <= hospitals and (answering >= 3 or two)
    who = {} if fewest is None else {"min_hospitals": fewest}
    values = values_with(
        changes(
            hospitals=hospitals,
            who=who,
            colluding=colluding,
            min_honest=honest,
            two_hospitals=two,
        )
    )

    if possible:
        assert parse_study(values).aggregation.secure
    else:
        with pytest.raises(StudyError):
            parse_study(values)


@pytest.mark.parametrize(
    ("hospitals", "terms", "fewest"),
    [
        (3, {}, 3),
        (4, {}, 3),
        (5, {"colluding": 1}, 4),
        (10, {"colluding": 2}, 7),
        (3, {"colluding": 1}, 3),  # n = c + k, the least
        (4, {"colluding": 1, "min_honest": 3}, 4),
        (2, {"two_hospitals": True}, 2),
        (64, {}, 33),
    ],
)
def test_the_fewest_that_the_threshold_allows_are_accepted_and_one_less_is_not(
    hospitals: int, terms: Values, fewest: int, values_with: ValuesWith
) -> None:
    exactly = changes(hospitals=hospitals, who={"min_hospitals": fewest}, **terms)
    assert parse_study(values_with(exactly)).participation.fewest == fewest

    one_less = changes(hospitals=hospitals, who={"min_hospitals": fewest - 1}, **terms)
    with pytest.raises(StudyError):
        parse_study(values_with(one_less))


def test_sums_are_secure_unless_the_study_says_otherwise(values_with: ValuesWith) -> None:
    assert parse_study(values_with({})).aggregation.secure
    plain = parse_study(values_with({"aggregation": {"strategy": "fedavg", "secure": False}}))
    assert not plain.aggregation.secure


# --- What the messages say ------------------------------------------------------------------------


def test_too_few_answers_are_refused_with_the_arithmetic(values_with: ValuesWith) -> None:
    said = refusal(values_with, changes(hospitals=4, who={"min_hospitals": 2}))

    assert "participation.min_hospitals >= 3, not 2" in said
    assert "floor((4 + 0 colluding + 2 honest - 1) / 2) + 1 = 3" in said


def test_colluders_are_in_the_arithmetic_of_too_few_answers(values_with: ValuesWith) -> None:
    said = refusal(values_with, changes(hospitals=10, who={"min_hospitals": 6}, colluding=2))

    assert "participation.min_hospitals >= 7, not 6" in said
    assert "floor((10 + 2 colluding + 2 honest - 1) / 2) + 1 = 7" in said


@pytest.mark.parametrize(("hospitals", "colluding", "honest"), [(3, 2, 2), (4, 1, 4), (3, 0, 4)])
def test_fewer_hospitals_than_colluding_and_honest_are_refused_with_the_arithmetic(
    hospitals: int, colluding: int, honest: int, values_with: ValuesWith
) -> None:
    """With n < c + k no t <= n exists."""
    said = refusal(
        values_with, changes(hospitals=hospitals, colluding=colluding, min_honest=honest)
    )

    assert f"{hospitals} hospitals + {colluding} colluding + {honest} honest - 1) / 2) + 1" in said
    assert f"there are {hospitals} hospitals; at least {colluding + honest} are needed" in said


def test_more_colluders_than_hospitals_are_refused(values_with: ValuesWith) -> None:
    assert "n=3, c=4" in refusal(values_with, changes(hospitals=3, colluding=4))


def test_one_hospital_has_nobody_to_hide_among(values_with: ValuesWith) -> None:
    for who in ({"hospitals": 1}, {"hospitals": 5, "invited": 1}):
        said = refusal(values_with, {"participation": who})

        assert "at least 2 hospitals in a secure sum" in said
        assert "aggregation.secure = false" in said
    alone = changes(hospitals=1, secure=False)
    assert parse_study(values_with(alone)).participation.hospitals == 1


def test_two_hospitals_are_refused_unless_the_study_says_it_aloud(
    values_with: ValuesWith,
) -> None:
    for who in ({"hospitals": 2}, {"hospitals": 5, "invited": 2}):
        said = refusal(values_with, {"participation": who})

        assert "each of two can subtract its own update" in said
        assert "aggregation.two_hospitals = true" in said
    aloud = changes(hospitals=2, two_hospitals=True)
    assert parse_study(values_with(aloud)).participation.fewest == 2


def test_weights_that_do_not_add_up_in_32_bits_are_refused_with_the_arithmetic(
    values_with: ValuesWith,
) -> None:
    """A word has room for (2**31 - 1) // n; of 100,000 hospitals the low word keeps 14 bits."""
    most = (2**31 - 1) // 100_000 * 2**14 // 2**16
    said = refusal(values_with, changes(hospitals=100_000, max_records=most + 1))

    assert f"aggregation.max_records <= {most} with 100000 hospitals, not {most + 1}" in said
    fits = parse_study(values_with(changes(hospitals=100_000, max_records=most)))
    assert fits.aggregation.max_records == most


def test_under_uniform_weighting_the_largest_weight_is_one(values_with: ValuesWith) -> None:
    uniform = changes(hospitals=100_000, max_records=2**31 - 1, weighting="uniform")

    assert parse_study(values_with(uniform)).aggregation.largest_weight == 1


def test_in_the_clear_weights_need_not_fit(values_with: ValuesWith) -> None:
    plain = changes(hospitals=100_000, max_records=2**31 - 1, secure=False)

    assert not parse_study(values_with(plain)).aggregation.secure


def test_fair_weights_have_a_bound_of_their_own(values_with: ValuesWith) -> None:
    fits = changes(hospitals=1000, strategy="qfedavg", q=1, max_weight=1_000_000)
    assert parse_study(values_with(fits)).aggregation.largest_weight == 1_000_000

    too_many = changes(hospitals=100_000, strategy="qfedavg", q=1, max_weight=1_000_000)
    assert "with 100000 hospitals" in refusal(values_with, too_many)


def test_an_invitation_of_some_is_accepted_where_all_of_them_must_answer(
    values_with: ValuesWith,
) -> None:
    study = parse_study(values_with({"participation": {"hospitals": 10, "invited": 4}}))

    assert (study.participation.asked, study.participation.fewest) == (4, 4)


def test_of_those_who_are_invited_some_may_drop_out(values_with: ValuesWith) -> None:
    """Three of four that train are enough; when all ten judge, six of them are waited for."""
    who = {"hospitals": 10, "invited": 4, "min_hospitals": 3}

    assert parse_study(values_with({"participation": who})).participation.fewest == 3
    too_few = refusal(values_with, {"participation": {**who, "min_hospitals": 2}})
    assert "participation.min_hospitals >= 3" in too_few


def test_the_file_is_named(tmp_path: Path, values_with: ValuesWith) -> None:
    file = tmp_path / "two.toml"
    file.write_text(tomli_w.dumps(values_with({"participation": {"hospitals": 2}})), "utf-8")

    with pytest.raises(StudyError, match=r"two\.toml.*two_hospitals"):
        read_study(file)


# --- Single values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_records", 0),
        ("max_records", 2**31),
        ("max_records", 10.5),
        ("clip", 0.0),
        ("clip", -1.0),
        ("clip", 1e6 + 1),
        ("clip", float("inf")),
        ("clip", float("nan")),
        ("colluding", -1),
        ("min_honest", 1),
        ("min_honest", 0),
        ("secure", "yes"),
        ("two_hospitals", 1),
        ("weighting", "median"),
    ],
)
def test_an_impossible_value_is_refused_by_its_key(
    key: str, value: object, values_with: ValuesWith
) -> None:
    terms: Values = {key: value}

    assert f"aggregation.{key}" in refusal(values_with, changes(hospitals=3, **terms))


@pytest.mark.parametrize(
    ("key", "value"), [("max_records", 1), ("clip", 1e6), ("clip", 1e-9), ("min_honest", 3)]
)
def test_the_outermost_values_are_accepted(key: str, value: float, values_with: ValuesWith) -> None:
    terms: Values = {key: value}
    study = parse_study(values_with(changes(hospitals=3, **terms)))

    assert getattr(study.aggregation, key) == value


@pytest.mark.parametrize("strategy", ["fedmedian", "fedtrimmedavg", "krum", "bulyan"])
def test_a_strategy_that_compares_updates_says_aloud_that_they_are_seen(
    strategy: str, values_with: ValuesWith
) -> None:
    more: Values = {"malicious": 0} if strategy in {"krum", "bulyan"} else {}
    hidden = changes(hospitals=3, strategy=strategy, **more)
    seen = changes(hospitals=3, strategy=strategy, secure=False, **more)

    assert "secure = false" in refusal(values_with, hidden)
    assert not parse_study(values_with(seen)).aggregation.secure


@pytest.mark.parametrize(
    ("terms", "fewest"),
    [
        ({"strategy": "krum", "malicious": 1}, 5),  # 2 f + 3
        ({"strategy": "krum", "malicious": 0, "selected": 6}, 6),
        ({"strategy": "bulyan", "malicious": 1}, 7),  # 4 f + 3
    ],
)
def test_a_strategy_that_compares_updates_needs_enough_of_them(
    terms: Values, fewest: int, values_with: ValuesWith
) -> None:
    enough = changes(hospitals=fewest, secure=False, **terms)
    assert parse_study(values_with(enough)).participation.fewest == fewest

    said = refusal(values_with, changes(hospitals=fewest - 1, secure=False, **terms))
    assert f"participation.min_hospitals >= {fewest}" in said


def test_what_no_hospital_weighs_more_than(values_with: ValuesWith) -> None:
    study: Study = parse_study(values_with(changes(hospitals=3, max_records=500)))

    assert study.aggregation.largest_weight == 500
    assert FedAvg(weighting="uniform", max_records=500).largest_weight == 1
    assert QFedAvg(strategy="qfedavg", q=1, max_weight=9).largest_weight == 9


def test_every_term_is_in_the_digest(values_with: ValuesWith) -> None:
    """What a hospital approves says how its update is protected."""
    terms: list[Values] = [
        {},
        {"secure": False},
        {"colluding": 1},
        {"min_honest": 3},
        {"max_records": 9_999},
        {"clip": 99.0},
        {"two_hospitals": True},
        {"weighting": "uniform"},
    ]
    digests = {parse_study(values_with(changes(hospitals=5, **t))).digest() for t in terms}

    assert len(digests) == len(terms)
