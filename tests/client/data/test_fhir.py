"""FHIR bundles and bulk exports become a row, or a series, for each patient."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.data.context import Context
from fedward.client.data.faults import ListedFaults
from fedward.client.data.fhir import read_fhir
from fedward.client.data.fhir_files import fhir_files, resources
from fedward.client.data.reading import read_parts
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import FhirSource
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from fedward.study.study import Study, parse_study

Json = dict[str, Any]
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "fhir_synthea_hiv"
LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
TUBERCULOSIS = "112141" + "A" * 30
WEIGHT = "5089" + "A" * 32

PULSE = {"resource": "Observation", "system": LOINC, "code": "8867-4", "unit": "/min"}
STROKE = {"resource": "Condition", "system": SNOMED, "code": "230690007"}
FEATURES: Json = {"pulse": {"fhir": PULSE | {"take": "last"}}}


def study_of(features: Json = FEATURES, label: Json | None = None, **data: Any) -> Study:  # noqa: ANN401
    values = {
        "kind": "table",
        "features": features,
        "label": "stroke",
        "label_from": {"stroke": label or {"fhir": STROKE | {"take": "any"}}},
        "index": {"by": "date", "at": "2020-06-15"},
        "class_values": [[0], [1]],
        **data,
    }
    return parse_study(
        {
            "study": {"name": "records"},
            "task": {"kind": "binary", "classes": ["no", "yes"]},
            "model": {"name": "mlp", "hidden": [2]},
            "data": values,
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


def patient(name: str = "p1", **more: Any) -> Json:  # noqa: ANN401
    family = [{"family": "Unspeakable"}]
    return {"resourceType": "Patient", "id": name, "name": family, "birthDate": "1970-01-01"} | more


def coded(code: str, system: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def pulse(value: float, at: str, of: str = "Patient/p1", **more: Any) -> Json:  # noqa: ANN401
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": coded("8867-4", LOINC),
        "subject": {"reference": of},
        "effectiveDateTime": at,
        "valueQuantity": {"value": value, "unit": "beats", "system": UCUM, "code": "/min"},
    } | more


def stroke(at: str, of: str = "Patient/p1", **more: Any) -> Json:  # noqa: ANN401
    return {
        "resourceType": "Condition",
        "code": coded("230690007", SNOMED),
        "subject": {"reference": of},
        "onsetDateTime": at,
    } | more


def bundle(*entries: Json, urls: Sequence[str] = ()) -> Json:
    named = [*urls, *[""] * len(entries)]
    listed = [
        {"resource": e} | ({"fullUrl": url} if url else {})
        for e, url in zip(entries, named, strict=False)
    ]
    return {"resourceType": "Bundle", "type": "collection", "entry": listed}


def read(
    folder: Path, *entries: Json, study: Study | None = None, faults: ListedFaults | None = None
) -> RawRecords:
    folder.mkdir(exist_ok=True)
    (folder / "all.json").write_text(json.dumps(bundle(*entries)), encoding="utf-8")
    context = Context(folder, faults) if faults else Context(folder)
    return read_fhir(FhirSource(format="fhir", path="."), study or study_of(), context)


def one(folder: Path, *entries: Json, features: Json = FEATURES, **data: Any) -> float:  # noqa: ANN401
    raw = read(folder, patient(), *entries, study=study_of(features, **data))
    return float(raw.whole[0, 0])


# --- Synthetic patients of 2020 -------------------------------------------------------------------

real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no FHIR bundles at {REAL}")


@real
def test_every_resource_of_twelve_bundles_is_found() -> None:
    found = Counter(
        str(f.resource["resourceType"]) for file in fhir_files(REAL) for f in resources(file, print)
    )

    wanted = {"Patient": 12, "Observation": 537, "Encounter": 393, "Condition": 9}
    assert {kind: found[kind] for kind in wanted} == wanted
    assert found["Immunization"] == 572


@real
def test_they_are_read_through_a_hospital_s_file_alone(tmp_path: Path) -> None:
    visit = {"resource": "Encounter", "take": "count"}
    ill = {"resource": "Condition", "system": SNOMED, "code": TUBERCULOSIS}
    weight = {"resource": "Observation", "system": LOINC, "code": WEIGHT, "unit": "kg"}
    study = study_of(
        {
            "visits": {"fhir": visit},
            "weights": {"fhir": weight | {"take": "count"}},
            "gender": {
                "categories": ["female", "male"],
                "fhir": {"resource": "Patient", "take": "gender"},
            },
            "ill": {"fhir": ill | {"take": "count"}},
        },
        label={"fhir": ill | {"take": "any"}},
        index={"by": "date", "at": "2035-01-01"},
    )
    data = {"format": "fhir", "path": str(REAL)}
    file = tmp_path / "hospital.toml"
    file.write_text(tomli_w.dumps({"name": "A", "data": data}), encoding="utf-8")

    parts = read_parts(read_hospital(file), study, tmp_path)
    inputs = np.concatenate([records.whole.numpy() for records in parts.values()])

    assert len(inputs) == 12
    assert inputs.sum(axis=0).tolist() == [393, 12, 6, 6, 9]


@real
def test_an_index_at_the_diagnosis_leaves_it_and_all_later_out(tmp_path: Path) -> None:
    ill = {"resource": "Condition", "system": SNOMED, "code": TUBERCULOSIS}
    index = {"by": "event", "which": "first", "fhir": ill | {"take": "any"}}
    study = study_of(
        {"ill": {"fhir": ill | {"take": "any"}}},
        label={"fhir": ill | {"take": "any"}},
        index=index | {"otherwise": "last_encounter"},
    )
    raw = read_fhir(FhirSource(format="fhir", path=str(REAL)), study, Context(tmp_path))

    assert raw.whole.sum() == 0
    assert int(raw.whole_labels.sum()) == 9
    assert len(raw) == 12

    cases = study.model_copy(
        update={"data": study_of({"ill": {"fhir": ill | {"take": "any"}}}, index=index).data}
    )
    only = read_fhir(FhirSource(format="fhir", path=str(REAL)), cases, Context(tmp_path))
    assert (len(only), only.dropped) == (9, 3)


# --- What comes before what -----------------------------------------------------------------------

INDEX = "2020-06-15"
SIDES = [
    ("2020-06-14", True),
    ("2020-06-14T23:59:59Z", True),
    ("2020-06-15T00:00:00Z", False),
    ("2020-06-15", False),
    ("2020-06", False),  # it may have been after
    ("2020", False),
    ("2020-06-15T01:30:00+02:00", True),  # still the 14th in UTC
    ("2020-06-14T23:30:00-02:00", False),
    ("2021-01-01", False),
]


@pytest.mark.parametrize(("at", "before"), SIDES)
def test_every_event_is_on_one_side_of_the_index(at: str, before: bool, tmp_path: Path) -> None:
    features = {"strokes": {"fhir": STROKE | {"take": "count"}}}
    raw = read(tmp_path, patient(), stroke(at), study=study_of(features))

    assert (raw.whole[0, 0], raw.whole_labels[0]) == (float(before), int(not before))


@pytest.mark.parametrize(
    "late",
    [
        pulse(99, "2020-01-02", issued="2020-07-01T08:00:00Z"),
        pulse(99, "2020-01-02", effectivePeriod={"start": "2020-01-02"})
        | {"effectiveDateTime": None},
    ],
)
def test_what_was_known_later_is_no_feature(late: Json, tmp_path: Path) -> None:
    assert one(tmp_path, pulse(60, "2019-01-01"), late) == 60


def test_a_diagnosis_that_was_recorded_after_the_index_is_no_feature_and_no_label(
    tmp_path: Path,
) -> None:
    features = {"strokes": {"fhir": STROKE | {"take": "count"}}}
    backdated = stroke("2020-01-01", recordedDate="2020-09-01")
    raw = read(tmp_path, patient(), backdated, study=study_of(features))

    assert (raw.whole[0, 0], raw.whole_labels[0]) == (0, 0)


def test_windows_hold_on_both_sides(tmp_path: Path) -> None:
    features = {"n": {"fhir": PULSE | {"take": "count"}}}
    index = {"by": "date", "at": INDEX, "before": 30.0, "gap": 5.0, "after": 10.0}
    days = ("2020-05-10", "2020-05-20", "2020-06-05", "2020-06-12")
    study = study_of(features, index=index)
    raw = read(tmp_path, patient(), *(pulse(1, day) for day in days), study=study)
    near = read(tmp_path, patient(), stroke("2020-06-20"), study=study)
    far = read(tmp_path, patient(), stroke("2020-07-20"), study=study)

    assert raw.whole[0, 0] == 2
    assert (near.whole_labels[0], far.whole_labels[0]) == (1, 0)


moments = st.datetimes().map(lambda t: t.replace(year=2020, microsecond=0).isoformat() + "Z")


@given(before=st.lists(moments, max_size=5), changed=st.lists(moments, max_size=5))
def test_nothing_after_the_index_changes_a_feature(
    before: list[str], changed: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is added at the index or later, or moved about there, features stay the same."""
    folder = tmp_path_factory.mktemp("leak")
    takes = ("first", "last", "mean", "min", "max", "count", "any")
    features = {take: {"absent": -1.0, "fhir": PULSE | {"take": take}} for take in takes}
    past = [pulse(50 + n, at) for n, at in enumerate(before) if at < INDEX]
    future = [pulse(150 + n, at) for n, at in enumerate(changed) if at >= INDEX]
    study = study_of(features)

    alone = read(folder, patient(), *past, study=study)
    both = read(folder, patient(), *future, *past, study=study)

    assert alone.whole.tobytes() == both.whole.tobytes()


def test_the_unborn_and_the_dead_have_no_index(tmp_path: Path) -> None:
    entries = [
        patient("a"),
        patient("b", birthDate="2021-01-01"),
        patient("c", deceasedDateTime="2020-01-01"),
    ]
    features = {"n": {"fhir": PULSE | {"take": "count"}}}
    raw = read(tmp_path, *entries, study=study_of(features))

    assert (raw.names.tolist(), raw.rows.tolist(), raw.dropped) == (["a"], [0], 2)


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({}, 0),
        ({"deceasedDateTime": "2020-08-01"}, 1),
        ({"deceasedDateTime": "2029-08-01"}, 0),  # after the window
        ({"deceasedBoolean": False}, 0),
        ({"deceasedBoolean": True}, None),  # nobody says when
    ],
)
def test_death_is_a_label(facts: Json, label: int | None, tmp_path: Path) -> None:
    study = study_of(
        {"n": {"fhir": PULSE | {"take": "count"}}},
        label={"fhir": {"resource": "Patient", "take": "deceased"}},
        index={"by": "date", "at": INDEX, "after": 365.0},
        missing="drop",
    )
    raw = read(tmp_path, patient(**facts), study=study)

    assert raw.whole_labels.tolist() == ([] if label is None else [label])


# --- Values ---------------------------------------------------------------------------------------

TAKES = [("first", 70), ("last", 90), ("mean", 80), ("min", 70), ("max", 90), ("count", 3)]


@pytest.mark.parametrize(("take", "wanted"), [*TAKES, ("any", 1)])
def test_each_way_of_taking(take: str, wanted: float, tmp_path: Path) -> None:
    events = [pulse(80, "2020-01-02"), pulse(90, "2020-01-03"), pulse(70, "2020-01-01")]

    assert one(tmp_path, *events, features={"p": {"fhir": PULSE | {"take": take}}}) == wanted


def test_age_is_in_years_at_the_index(tmp_path: Path) -> None:
    features = {"age": {"fhir": {"resource": "Patient", "take": "age"}}}

    assert one(tmp_path, features=features) == pytest.approx(50.45, abs=0.01)


def test_onset_is_the_age_at_the_first(tmp_path: Path) -> None:
    features = {"age": {"fhir": STROKE | {"take": "onset"}}}
    found = one(tmp_path, stroke("2000-01-01"), stroke("1990-01-01"), features=features)

    assert found == pytest.approx(20, abs=0.01)


def test_components_are_found(tmp_path: Path) -> None:
    pressure = {"resource": "Observation", "system": LOINC, "code": "8480-6", "unit": "mm[Hg]"}
    parts = [
        {
            "code": coded(code, LOINC),
            "valueQuantity": {"value": value, "system": UCUM, "code": "mm[Hg]"},
        }
        for code, value in (("8462-4", 80), ("8480-6", 120))
    ]
    whole = pulse(0, "2020-01-01") | {"code": coded("85354-9", LOINC), "component": parts}
    del whole["valueQuantity"]

    assert one(tmp_path, whole, features={"s": {"fhir": pressure | {"take": "last"}}}) == 120


def test_codes_are_categories(tmp_path: Path) -> None:
    smoking = {"resource": "Observation", "system": LOINC, "code": "72166-2", "take": "last"}
    found = pulse(0, "2020-01-01") | {"code": coded("72166-2", LOINC)}
    del found["valueQuantity"]
    found["valueCodeableConcept"] = {
        "coding": [{"code": "local"}, {"system": SNOMED, "code": "77"}]
    }
    study = study_of({"smoking": {"categories": ["8517006", "77"], "fhir": smoking}})

    assert read(tmp_path, patient(), found, study=study).whole.tolist() == [[0, 1]]


@pytest.mark.parametrize("given", ["contained", "resource", "here"])
def test_medicines_by_code_or_reference(given: str, tmp_path: Path) -> None:
    rx = "http://www.nlm.nih.gov/research/umls/rxnorm"
    wanted = {"resource": "MedicationRequest", "system": rx, "code": "6809", "take": "count"}
    order: Json = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/p1"},
        "authoredOn": "2020-01-01",
    }
    medicine = {"resourceType": "Medication", "id": "m", "code": coded("6809", rx)}
    other = {"resourceType": "Medication", "id": "n", "code": coded("1", rx)}
    more: list[Json] = []
    if given == "contained":
        order |= {"contained": [medicine], "medicationReference": {"reference": "#m"}}
    elif given == "resource":
        order |= {"medicationReference": {"reference": "Medication/m"}}
        more = [order | {"medicationReference": {"reference": "Medication/n"}}, other, medicine]
    else:
        order |= {"medicationCodeableConcept": coded("6809", rx)}
    no = order | {"doNotPerform": True}
    plan = order | {"intent": "plan"}

    assert one(tmp_path, order, no, plan, *more, features={"m": {"fhir": wanted}}) == 1


def test_encounters_by_class(tmp_path: Path) -> None:
    def visit(kind: str, status: str = "finished") -> Json:
        system = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
        return {
            "resourceType": "Encounter",
            "status": status,
            "class": {"system": system, "code": kind},
            "subject": {"reference": "Patient/p1"},
            "period": {"start": "2020-01-01T10:00:00Z"},
        }

    entries = [visit("EMER"), visit("AMB"), visit("EMER", "planned")]
    count = {"resource": "Encounter", "take": "count"}

    assert one(tmp_path, *entries, features={"v": {"fhir": count}}) == 2
    assert one(tmp_path, *entries, features={"v": {"fhir": count | {"code": "EMER"}}}) == 1


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled", "preliminary", None])
def test_only_final_observations_count(status: str | None, tmp_path: Path) -> None:
    assert one(tmp_path, pulse(60, "2020-01-01"), pulse(99, "2020-01-02", status=status)) == 60


@pytest.mark.parametrize("status", ["entered-in-error", "refuted", "provisional"])
def test_only_confirmed_conditions_count(status: str, tmp_path: Path) -> None:
    unsure = stroke("2021-01-01", verificationStatus={"coding": [{"code": status}]})
    features = {"n": {"fhir": PULSE | {"take": "count"}}}

    assert read(tmp_path, patient(), unsure, study=study_of(features)).whole_labels.tolist() == [0]


def test_a_unit_that_is_exactly_another_is_converted(tmp_path: Path) -> None:
    weight = {"resource": "Observation", "system": LOINC, "code": "29463-7", "unit": "kg"}
    found = pulse(0, "2020-01-01") | {
        "code": coded("29463-7", LOINC),
        "valueQuantity": {"value": 70500, "system": UCUM, "code": "g"},
    }

    assert one(tmp_path, found, features={"w": {"fhir": weight | {"take": "last"}}}) == 70.5


WRONG: list[tuple[Json, str]] = [
    ({"valueQuantity": {"value": 1, "code": "Hz"}}, "unit 'Hz'"),
    ({"valueQuantity": {"value": 1, "unit": "per minute"}}, "without a code"),
    ({"valueQuantity": {"value": 1}}, "wants '/min'"),
    ({"valueQuantity": {"value": 1, "comparator": "<", "code": "/min"}}, "above or below"),
    ({"valueQuantity": {"value": "1", "code": "/min"}}, "no number"),
    ({"valueQuantity": {"value": True, "code": "/min"}}, "no number"),
    ({"valueQuantity": None, "valueRange": {"low": 1}}, "kind that is not read"),
    ({"effectiveDateTime": None}, "does not say when"),
    ({"effectiveDateTime": "yesterday"}, "its time is none"),
    ({"effectiveDateTime": "2020-02-30"}, "its time is none"),
    ({"effectiveDateTime": "2020-02-03T10:00:00"}, "its time is none"),  # no zone
    ({"modifierExtension": [{"url": "http://example.org/not"}]}, "modifier"),
    ({"implicitRules": "http://example.org/rules"}, "modifier"),
    ({"subject": None}, "whose"),
    ({"subject": {"display": "Unspeakable"}}, "whose"),
    ({"subject": {"reference": "Patient/p2"}}, "none of the files"),
    ({"subject": {"reference": "#p"}}, "described in it alone"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_what_cannot_be_used_is_named_and_nobody_is(
    change: Json, words: str, tmp_path: Path
) -> None:
    odd = pulse(60, "2020-01-01") | change

    with pytest.raises(DataError) as caught:
        read(tmp_path, patient(), odd)
    assert words in caught.value.line()
    assert "entry 2" in caught.value.line()
    for secret in ("Unspeakable", "p1"):
        assert secret not in caught.value.line().replace(str(tmp_path), "")

    faults = ListedFaults()
    raw = read(
        tmp_path,
        patient(),
        patient("p3"),
        odd,
        pulse(50, "2020-01-01", "Patient/p3"),
        faults=faults,
    )
    assert len(faults.found) >= 1
    assert len(raw) + raw.dropped >= 2
    assert "p3" in raw.names.tolist()


def test_an_observation_about_something_else_is_no_patient_s(tmp_path: Path) -> None:
    other = pulse(99, "2020-01-02", of="Group/g")

    assert one(tmp_path, pulse(60, "2020-01-01"), other) == 60


def test_a_value_that_is_missing_is_the_study_s_to_decide(tmp_path: Path) -> None:
    gone = pulse(0, "2020-01-01", valueQuantity=None, dataAbsentReason={"text": "refused"})

    with pytest.raises(DataError, match="missing"):
        read(tmp_path, patient(), gone)
    assert read(tmp_path, patient(), gone, study=study_of(missing="drop")).dropped == 1
    absent = study_of({"pulse": {"absent": -1.0, "fhir": PULSE | {"take": "last"}}})
    assert read(tmp_path, patient(), gone, study=absent).whole.tolist() == [[0, 1]]


# --- References and files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["Patient/p1", "Patient/p1/_history/3", "urn:uuid:1-2-3", "http://example.org/fhir/Patient/p1"],
)
def test_a_patient_goes_by_several_names(reference: str, tmp_path: Path) -> None:
    url = reference if reference.startswith(("urn", "http")) else ""
    first = bundle(pulse(61, "2020-01-01", of=reference), patient(), urls=["", url])
    (tmp_path / "a.json").write_text(json.dumps(first), encoding="utf-8")
    raw = read_fhir(FhirSource(format="fhir", path="a.json"), study_of(), Context(tmp_path))

    assert raw.whole.tolist() == [[61]]


def test_bulk_exports_give_what_bundles_give_packed_or_not(tmp_path: Path) -> None:
    people = [patient("a"), patient("b")]
    found = [pulse(60, "2020-01-01", "Patient/a"), pulse(70, "2020-01-01", "Patient/b")]
    one = read(tmp_path / "one", *people, *found)
    other = tmp_path / "other"
    other.mkdir()
    lines = "\n".join(map(json.dumps, found)).encode()
    (other / "Observation.ndjson.gz").write_bytes(gzip.compress(lines))
    (other / "Patient.ndjson").write_text("\n".join(map(json.dumps, people)) + "\n\n", "utf-8")
    two = read_fhir(FhirSource(format="fhir", path="other"), study_of(), Context(tmp_path))

    assert one.whole.tolist() == two.whole.tolist() == [[60], [70]]
    assert two.names.tolist() == ["a", "b"]


def test_overlapping_exports_count_once_and_contradictions_are_named(tmp_path: Path) -> None:
    features = {"n": {"fhir": PULSE | {"take": "count"}}}
    same = pulse(60, "2020-01-01", id="o1")

    assert one(tmp_path, same, same, patient(), features=features) == 1
    with pytest.raises(DataError, match="another content"):
        one(tmp_path, same, same | {"effectiveDateTime": "2020-01-02"}, features=features)
    with pytest.raises(DataError, match="another content"):
        one(tmp_path, patient(birthDate="1980-01-01"))


def test_a_study_that_does_not_say_where_things_are_is_refused(tmp_path: Path) -> None:
    study = study_of()
    plain = study.data.model_copy(update={"features": {"x": study.data.features["pulse"]}})  # type: ignore[union-attr]
    odd = study.model_copy(update={"data": plain.model_copy(update={"label_from": None})})

    with pytest.raises(DataError, match="does not say where 'stroke'"):
        read(tmp_path, patient(), study=odd)


# --- Series ---------------------------------------------------------------------------------------


def test_a_series_has_a_value_and_a_presence_for_each_bin(tmp_path: Path) -> None:
    study = study_of(
        {
            "pulse": {"center": 60.0, "scale": 10.0, "fhir": PULSE | {"take": "mean"}},
            "measured": {"fhir": PULSE | {"take": "count"}},
        },
        kind="series",
        bins=3,
        hours=12.0,
    )
    events = [
        pulse(70, "2020-06-14T23:00:00Z"),
        pulse(90, "2020-06-14T13:00:00Z"),
        pulse(60, "2020-06-13T13:00:00Z"),
        pulse(999, "2020-06-15T00:00:00Z"),
        pulse(999, "2020-06-13T11:00:00Z"),
    ]
    raw = read(tmp_path, patient(), *events, stroke("2020-07-01"), study=study)

    assert raw.whole.shape == (1, 4, 3)
    assert raw.whole[0].tolist() == [[0, 0, 2], [1, 0, 1], [1, 0, 2], [1, 0, 1]]
    assert raw.whole_labels.tolist() == [1]
