"""FHIR's dates and times, which may be as coarse as a year."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from fedward.client.data.charts import Span

_FORM = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span_of(text: object, *, zoned: bool = True) -> Span | None:
    """What a text says: from its first moment to the first that is no more meant.

    A date without a time counts as a day in UTC.

    Args:
        text: As in a file.
        zoned: Whether a time without a zone is refused, as FHIR wants it; else it is UTC.

    Returns:
        The moment; None if the text is none.
    """
    found = _FORM.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    if hour is not None and zone is None and zoned:
        return None
    try:
        first = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            min(int(second or 0), 59),  # a leap second
            tzinfo=_zone(zone),
        )
        last = _end(first, month, day, hour, second)
    except (ValueError, OverflowError):
        return None
    more = float(fraction or 0)
    start = (first - _EPOCH).total_seconds() + more
    if fraction:  # known to a millisecond at best, whatever it says
        return Span(start, start + max(1e-3, 10.0 ** (1 - len(fraction))))
    return Span(start, (last - _EPOCH).total_seconds())


def _zone(text: str | None) -> timezone:
    if text is None or text == "Z":
        return UTC
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:6])))


def _end(
    first: datetime, month: str | None, day: str | None, hour: str | None, second: str | None
) -> datetime:
    if month is None:
        return first.replace(year=first.year + 1)
    if day is None:
        step = first + timedelta(days=32)
        return step.replace(day=1)
    if hour is None:
        return first + timedelta(days=1)
    return first + (timedelta(minutes=1) if second is None else timedelta(seconds=1))
