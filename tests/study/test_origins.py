"""Where values come from in record systems is part of the contract, and nothing leaks backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study

ValuesWith = Callable[[Mapping[str, object]], dict[str, Any]]
StudyWith = Callable[[Mapping[str, object]], Study]

PULSE = {"resource": "Observation", "system": "http://loinc.org", "code": "8867-4", "take": "last"}
ILL = {"resource": "Condition", "system": "http://snomed.info/sct", "code": "1", "take": "any"}
INDEX: dict[str, Any] = {"by": "date", "at": "2020-01-31"}
RECORDS: dict[str, object] = {
    "data.features": {"pulse": {"fhir": PULSE}},
    "data.label_from": {"diagnosis": {"fhir": ILL}},
    "data.index": INDEX,
}
OMOP = {"table": "measurement", "concept": 3027018, "take": "last"}


def test_what_is_not_said_leaves_digests_as_they_were(study_with: StudyWith) -> None:
    canonical = study_with({}).canonical()

    for key in (b"fhir", b"omop", b"index", b"label_from", b"span", b"statistics"):
        assert key not in canonical


def test_what_is_said_is_in_the_digest_and_survives_being_written(study_with: StudyWith) -> None:
    changes: list[dict[str, object]] = [
        {},
        RECORDS,
        RECORDS | {"data.features": {"pulse": {"fhir": PULSE | {"take": "first"}}}},
        RECORDS | {"data.features": {"pulse": {"fhir": PULSE | {"unit": "/min"}}}},
        RECORDS | {"data.index": INDEX | {"at": "2020-02-01"}},
        RECORDS | {"data.index": INDEX | {"gap": 1.0}},
        {"data.statistics": {}},
        {"data.statistics": {"fewest": 5}},
        {"data.statistics": {"bins": 5}},
    ]
    studies = [study_with(change) for change in changes]

    assert len({study.digest() for study in studies}) == len(changes)
    for study in studies:
        again = parse_study(study.model_dump(mode="json", exclude_none=True))
        assert again.digest() == study.digest()
        assert again == study


WRONG: list[tuple[dict[str, object], str]] = [
    ({"data.index": None}, "an index"),
    ({"data.label_from": None}, "every label"),
    ({"data.label_from": {"other": {"fhir": ILL}}}, "columns of the label only"),
    ({"data.features": {"pulse": {"fhir": PULSE}, "x": {}}}, "every feature"),
    (
        {"data.features": {"dead": {"fhir": {"resource": "Patient", "take": "deceased"}}}},
        "label only",
    ),
    (
        {"data.features": {"pulse": {"fhir": PULSE, "omop": OMOP | {"take": "first"}}}},
        "the same take",
    ),
    ({"data.features": {"pulse": {"fhir": PULSE, "omop": OMOP}}}, "omop for every"),
    ({"data.index": INDEX | {"at": "2020-02-30"}}, "day"),
    ({"data.index": INDEX | {"before": 3.0, "gap": 3.0}}, "gap below before"),
    ({"data.index": {"by": "event", "which": "first"}}, "fhir or omop"),
    (
        {"data.index": {"by": "event", "which": "first", "omop": OMOP}},
        "index.fhir",
    ),
    ({"data.features": {"pulse": {"fhir": PULSE | {"take": "median"}}}}, "'first'"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_could_leak_or_mean_nothing_is_refused(
    change: dict[str, object], words: str, values_with: ValuesWith
) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(values_with(RECORDS | change))
    assert words in caught.value.allowed


def test_an_index_without_records_is_refused(values_with: ValuesWith) -> None:
    with pytest.raises(StudyError, match="and only there"):
        parse_study(values_with({"data.index": INDEX}))


def test_series_have_two_channels_a_feature(study_with: StudyWith) -> None:
    series = RECORDS | {"data.kind": "series", "data.bins": 24, "data.hours": 1.0}

    assert study_with(series).data.input_shape == (2, 24)
    assert b'"series"' in study_with(series).canonical()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.features": {"age": {"fhir": {"resource": "Patient", "take": "age"}}}}, "over time"),
        ({"data.features": {"pulse": {}}}, "over time"),
        ({"data.index": INDEX | {"before": 9.0}}, "bins and hours"),
    ],
)
def test_series_that_mean_nothing_are_refused(
    change: dict[str, object], words: str, values_with: ValuesWith
) -> None:
    series = RECORDS | {"data.kind": "series", "data.bins": 24, "data.hours": 1.0}
    with pytest.raises(StudyError) as caught:
        parse_study(values_with(series | change))
    assert words in caught.value.allowed


def test_a_span_is_for_statistics_alone(values_with: ValuesWith) -> None:
    for features in ({"age": {"span": [0, 1]}}, {"age": {"span": [1, 0]}}):
        with pytest.raises(StudyError):
            parse_study(values_with({"data.features": features}))
    good = {"data.features": {"age": {"span": [0, 1], "center": 3.0}}, "data.statistics": {}}
    assert parse_study(values_with(good)).data.summed
