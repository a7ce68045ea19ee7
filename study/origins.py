"""Where a value of a table or series comes from in a record system: FHIR R4, or OMOP CDM 5.4.

Every patient has one moment, the *index*. A feature is taken from what was surely over and known
before it, a label from what was not: no event can be on both sides, so that no feature tells of
what the model is to foresee. Where a time is told to the day only, the day's end counts for a
feature; a condition or a result is known when it was recorded, however early it began.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen

Text = Annotated[str, Field(min_length=1, max_length=1000)]
Codes = Text | Annotated[tuple[Text, ...], Field(min_length=1)]
Concept = Annotated[int, Field(ge=0, lt=2**31)]
Concepts = Concept | Annotated[tuple[Concept, ...], Field(min_length=1)]
Take = Literal["first", "last", "mean", "min", "max", "count", "any"]
Tally = Literal["any", "count"]
Onset = Literal["any", "count", "onset"]
Days = Annotated[float, Field(gt=0, le=1e5)]

CLASSES = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
"""The code system of classes of encounters."""


class _Coded(Frozen):
    """What is found by its code.

    Attributes:
        system: Address of the code system, such as `http://loinc.org`.
        code: The code, or several that mean the same.
    """

    system: Text
    code: Codes

    @property
    def codes(self) -> tuple[str, ...]:
        """All codes."""
        return (self.code,) if isinstance(self.code, str) else self.code


class FhirObservation(_Coded):
    """A measurement or finding; also a component of one, as in blood pressure.

    Attributes:
        unit: UCUM code of the value; without it a value must have none. A value in another unit is
            a fault, unless `client/data/units.py` has the exact factor.
        take: Which value, or how many (`count`), or whether there is one (`any`: 0 or 1).
    """

    resource: Literal["Observation"]
    unit: Text | None = None
    take: Take


class FhirPatient(Frozen):
    """The patient.

    Attributes:
        take: `age` at the index, in years; `gender` as FHIR has it (male, female, other, unknown);
            or, for a label, `deceased`: 0 or 1.
    """

    resource: Literal["Patient"]
    take: Literal["age", "gender", "deceased"]


class FhirCondition(_Coded):
    """A diagnosis.

    Attributes:
        take: Whether there is one, how many, or the age in years at the `onset` of the first.
    """

    resource: Literal["Condition"]
    take: Onset


class FhirEncounter(Frozen):
    """A visit or stay.

    Attributes:
        system: Of the class.
        code: Class of the encounter, such as `EMER`, or several; all encounters if left out.
        take: Whether there is one, or how many.
    """

    resource: Literal["Encounter"]
    system: Text = CLASSES
    code: Codes | None = None
    take: Tally

    @property
    def codes(self) -> tuple[str, ...]:
        """All codes; none where every encounter is meant."""
        return (self.code,) if isinstance(self.code, str) else self.code or ()


class FhirMedicationRequest(_Coded):
    """A prescription.

    Attributes:
        take: Whether there is one, or how many.
    """

    resource: Literal["MedicationRequest"]
    take: Tally


FhirCoded = FhirObservation | FhirCondition | FhirEncounter | FhirMedicationRequest
Fhir = Annotated[FhirCoded | FhirPatient, Field(discriminator="resource")]


class _Concepts(Frozen):
    """What is found by its concept.

    Attributes:
        concept: Standard concept, or several; descendants are not looked for.
    """

    concept: Concepts

    @property
    def concepts(self) -> tuple[int, ...]:
        """All concepts."""
        return (self.concept,) if isinstance(self.concept, int) else self.concept


class OmopMeasured(_Concepts):
    """A row of `measurement` or `observation`.

    Attributes:
        unit: Concept of the unit; without it a value must have none. Another is a fault.
        take: As of a FHIR Observation.
    """

    table: Literal["measurement", "observation"]
    unit: Concept | None = None
    take: Take


class OmopPerson(Frozen):
    """The patient.

    Attributes:
        take: `age` at the index in years, or `gender` (`male`, `female`, or else `unknown`).
    """

    table: Literal["person"]
    take: Literal["age", "gender"]


class OmopCondition(_Concepts):
    """A row of `condition_occurrence`."""

    table: Literal["condition_occurrence"]
    take: Onset


class OmopDrug(_Concepts):
    """A row of `drug_exposure`."""

    table: Literal["drug_exposure"]
    take: Tally


class OmopVisit(Frozen):
    """A row of `visit_occurrence`.

    Attributes:
        concept: Kind of visit, or several; all visits if left out.
    """

    table: Literal["visit_occurrence"]
    concept: Concepts | None = None
    take: Tally

    @property
    def concepts(self) -> tuple[int, ...]:
        """All concepts; none where every visit is meant."""
        return (self.concept,) if isinstance(self.concept, int) else self.concept or ()


OmopCoded = OmopMeasured | OmopCondition | OmopDrug | OmopVisit
Omop = Annotated[
    OmopMeasured | OmopCondition | OmopDrug | OmopVisit | OmopPerson, Field(discriminator="table")
]


class Origin(Frozen):
    """Where a value comes from.

    Attributes:
        fhir: In FHIR records.
        omop: In an OMOP database.
    """

    fhir: Fhir | None = None
    omop: Omop | None = None

    @model_validator(mode="after")
    def _one_meaning(self) -> Origin:
        if self.fhir is not None and self.omop is not None and self.fhir.take != self.omop.take:
            raise ValueError("the same take in fhir and omop")
        return self

    @property
    def take(self) -> str | None:
        """What is taken; None where it comes from nowhere."""
        found = self.fhir or self.omop
        return None if found is None else found.take


class _Window(Frozen):
    """How far from the index records are looked at.

    Attributes:
        before: Days before the index from which features come; all of the past if left out.
        gap: Days that end at the index and are left out of features.
        after: Days from the index on from which labels come; all of the future if left out.
    """

    before: Days | None = None
    gap: Annotated[float, Field(ge=0, le=1e5)] = 0.0
    after: Days | None = None

    @model_validator(mode="after")
    def _not_all_is_gap(self) -> _Window:
        if self.before is not None and self.gap >= self.before:
            raise ValueError("gap below before")
        return self


class AtDate(_Window):
    """One day for all patients, whose first moment (UTC) is the index.

    Attributes:
        at: The day, as `2020-01-31`.
    """

    by: Literal["date"]
    at: Annotated[str, Field(pattern=r"^(19|20)\d\d-\d\d-\d\d$")]

    @model_validator(mode="after")
    def _a_real_day(self) -> AtDate:
        date.fromisoformat(self.at)  # a ValueError says what is wrong
        return self


class AtEvent(_Window):
    """The beginning of an event of each patient's own; patients without one are left out.

    Attributes:
        which: The patient's first, or last.
        fhir: The event in FHIR records; of its `take` nothing is used.
        omop: The event in an OMOP database.
        otherwise: `last_encounter`: that is the index of patients without the event. It gives
            controls to a study of cases; their features then come from another time of life.
    """

    by: Literal["event"]
    which: Literal["first", "last"]
    fhir: Annotated[FhirCoded, Field(discriminator="resource")] | None = None
    omop: Annotated[OmopCoded, Field(discriminator="table")] | None = None
    otherwise: Literal["last_encounter"] | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> AtEvent:
        if self.fhir is None and self.omop is None:
            raise ValueError("fhir or omop or both")
        return self


Index = Annotated[AtDate | AtEvent, Field(discriminator="by")]


def refuse_leaky(
    features: dict[str, Origin], labels: dict[str, Origin], index: AtDate | AtEvent | None
) -> None:
    """Accept where values come from by returning.

    Raises:
        ValueError: Some have an origin and others not, nothing says what comes before what, or a
            feature tells the end.
    """
    every = [*features.values(), *labels.values()]
    for system in ("fhir", "omop"):
        known = [getattr(origin, system) is not None for origin in every]
        if any(known) and not all(known):
            raise ValueError(f"{system} for every feature and, in label_from, every label; or none")
        if any(known) and isinstance(index, AtEvent) and getattr(index, system) is None:
            raise ValueError(f"index.{system}, as features have {system}")
    somewhere = any(origin.take is not None for origin in every)
    if somewhere != (index is not None):
        raise ValueError("an index where features have fhir or omop, and only there")
    if told := [name for name, origin in features.items() if origin.take == "deceased"]:
        raise ValueError(f"deceased as a label only, not as the feature {told[0]!r}")
