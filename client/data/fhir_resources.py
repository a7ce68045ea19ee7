"""What a resource of FHIR R4 says of itself: whether it counts, when and whose it is, its codes."""

from __future__ import annotations

import math
from typing import Any

from fedward.client.data.charts import Span, Value
from fedward.client.data.fhir_files import Json
from fedward.client.data.fhir_times import span_of
from fedward.client.data.units import in_unit

Column = str
Code = tuple[str, str]
"""System and code."""

_COUNTS = {
    "Observation": {"final", "amended", "corrected"},
    "Encounter": {"arrived", "triaged", "in-progress", "onleave", "finished"},
    "MedicationRequest": {"active", "on-hold", "completed", "stopped"},
}
_ORDERED = {"order", "original-order", "reflex-order", "filler-order", "instance-order"}


class Fault(Exception):  # noqa: N818 - never leaves the reader
    """A resource cannot be used."""


class Unusable(str):
    """Stands for a value that is wrong, and says why."""

    __slots__ = ()


def counts(kind: str, resource: Json) -> bool:
    """Whether it is one of those that count; see `fhir.py`."""
    if kind == "Condition":
        codes = {code for _, code in codes_of(resource.get("verificationStatus"))}
        return not codes or "confirmed" in codes
    ordered = kind != "MedicationRequest" or (
        str(resource.get("intent")) in _ORDERED and resource.get("doNotPerform") is not True
    )
    return ordered and str(resource.get("status")) in _COUNTS[kind]


def means_something_else(resource: Json) -> bool:
    """Whether an extension that is not understood changes its meaning."""
    return bool(resource.get("modifierExtension") or resource.get("implicitRules"))


def when(kind: str, resource: Json) -> tuple[Span, float]:
    """When it began, and from when on it was surely known."""
    if kind == "Encounter":
        span = _span(_within(resource, "period", "start"))
        return span, span.last
    if kind == "MedicationRequest":
        span = _span(resource.get("authoredOn"))
        return span, span.last
    if kind == "Condition":
        begun = resource.get("onsetDateTime") or _within(resource, "onsetPeriod", "start")
        recorded = resource.get("recordedDate")
        span = _span(begun or recorded)
        return span, span.last if recorded is None else max(span.last, _span(recorded).last)
    issued = resource.get("issued")
    at = resource.get("effectiveDateTime") or resource.get("effectiveInstant")
    if at is not None:
        span = _span(at)
    else:
        first = _span(_within(resource, "effectivePeriod", "start"))
        end = _within(resource, "effectivePeriod", "end")
        span = Span(first.first, math.inf if end is None else _span(end).last)
    return span, span.last if issued is None else max(span.last, _span(issued).last)


def _span(text: object) -> Span:
    if text is None:
        raise Fault("it does not say when")
    span = span_of(text)
    if span is None:
        raise Fault("its time is none")
    return span


def _within(resource: Json, key: str, inner: str) -> Any:  # noqa: ANN401 - any JSON value
    found = resource.get(key)
    return found.get(inner) if isinstance(found, dict) else None


def subject_of(resource: Json) -> str | None:
    """What it calls its patient; None where it is about something else."""
    reference = reference_of(resource.get("subject"))
    if reference.startswith("#"):
        raise Fault("its patient is described in it alone")
    parts = unversioned(reference).split("/")
    of = parts[-2] if len(parts) > 1 else "Patient"
    return reference if of == "Patient" else None


def reference_of(value: object) -> str:
    """What it calls another resource.

    Raises:
        Fault: It calls none.
    """
    reference = value.get("reference") if isinstance(value, dict) else None
    if not isinstance(reference, str) or not reference:
        raise Fault("it does not say whose it is, or what of")
    return reference


def unversioned(reference: str) -> str:
    """The same without a version."""
    return reference.split("/_history/")[0]


def own_names(resource: Json, full_url: str) -> set[str]:
    """What other resources may call this one."""
    name = resource.get("id")
    own = {f"{resource.get('resourceType')}/{name}"} if isinstance(name, str) else set()
    return own | ({full_url} if full_url else set())


def codes_of(concept: object) -> list[Code]:
    """All codes of a concept; nothing of what is none."""
    codings = concept.get("coding") if isinstance(concept, dict) else None
    return [code_of(coding) for coding in dicts(codings)]


def code_of(coding: object) -> Code:
    """System and code of a coding, each empty where it is not there."""
    if not isinstance(coding, dict):
        return "", ""
    system, code = coding.get("system"), coding.get("code")
    return (
        system if isinstance(system, str) else "",
        code if isinstance(code, str) else "",
    )


def dicts(values: object) -> list[Json]:
    """The objects of a list; none of what is no list."""
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


def quantity(raw: Json, column: Column, unit: str | None) -> Value:
    """A number in the study's unit; None where it is left out, `Unusable` where it is wrong."""
    value, given = raw.get("value"), raw.get("code")
    if value is None:
        return None
    if raw.get("comparator"):
        return Unusable(f"{column!r} is only above or below a number")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return Unusable(f"{column!r} is no number")
    if given is None and raw.get("unit"):
        return Unusable(f"{column!r} has a unit without a code")
    found = in_unit(float(value), given if isinstance(given, str) else "", unit)
    if found is None:
        shown = given if isinstance(given, str) and len(given) <= 20 else "another"
        return Unusable(
            f"{column!r} is in the unit {shown!r}, and the study wants {unit or 'none'!r}"
        )
    return found
