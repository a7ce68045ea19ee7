"""Values in another unit than a study names: only where the factor is exact and the same for all.

UCUM codes. Mass to amount of substance (mg/dL to mmol/L) depends on the substance, temperature
has an offset, and names that are no UCUM codes may mean anything: none of them is converted.
"""

from __future__ import annotations

_OF_ONE_KIND = (
    {"kg": 1000.0, "g": 1.0, "mg": 1e-3, "ug": 1e-6, "[lb_av]": 453.59237},
    {"m": 100.0, "cm": 1.0, "mm": 0.1, "[in_i]": 2.54},
    {"L": 1000.0, "l": 1000.0, "dL": 100.0, "dl": 100.0, "mL": 1.0, "ml": 1.0},
    {"g/L": 100.0, "g/dL": 1000.0, "mg/dL": 1.0, "mg/L": 0.1, "mg/mL": 100.0},
    {"mol/L": 1000.0, "mmol/L": 1.0, "umol/L": 1e-3, "nmol/L": 1e-6},
    {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3},
    {"10*9/L": 1.0, "10*3/uL": 1.0, "10*6/L": 1e-3},
)


def in_unit(value: float, given: str, wanted: str | None) -> float | None:
    """A value in the wanted unit; None where that cannot be said exactly.

    Args:
        value: In the given unit.
        given: UCUM code; empty where there is none.
        wanted: UCUM code; None where a value must have no unit (or one that says only what is
            counted, such as `{score}`).
    """
    if wanted is None:
        none = given in ("", "1") or (given.startswith("{") and given.endswith("}"))
        return value if none else None
    if given == wanted:
        return value
    for factors in _OF_ONE_KIND:
        if given in factors and wanted in factors:
            return value * factors[given] / factors[wanted]
    return None
