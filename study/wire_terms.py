"""Values out of a message's table, each checked for type, size and value before it is used.

All functions but `malformed` raise a FederationError where the table has no such value.
"""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord

from fedward.study.errors import FederationError

_MOST = 100_000  # entries of a list; a study has no more hospitals
_LARGEST = 4096  # bytes of a list's entry; the largest, a packed advert, has 2048
_LARGEST_DOCUMENT = 4 << 20  # bytes of a signed document; a roster of tens of thousands of members
_LONGEST = 10_000  # characters of a text


def malformed(what: str) -> FederationError:
    """The error for a message whose content is not what it should be."""
    return FederationError(
        f"a message that Fedward does not speak: {what}",
        todo="run the same version of fedward on both sides",
    )


def text_in(terms: ConfigRecord, key: str) -> str:
    """A printable text of at most 10 000 characters."""
    value = terms.get(key)
    if not _is_text(value):
        raise malformed(f"no text {key!r}")
    return value  # type: ignore[return-value]


def texts_in(terms: ConfigRecord, key: str) -> tuple[str, ...]:
    """Such texts, at most 100 000."""
    values = list_in(terms, key)
    if not all(map(_is_text, values)):
        raise malformed(f"no texts {key!r}")
    return tuple(values)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()


def bytes_in(terms: ConfigRecord, key: str) -> bytes:
    """At most 4096 bytes."""
    value = terms.get(key)
    if not _is_bytes(value):
        raise malformed(f"no bytes {key!r}")
    return value  # type: ignore[return-value]


def several_bytes_in(terms: ConfigRecord, key: str) -> tuple[bytes, ...]:
    """Such pieces, at most 100 000."""
    values = list_in(terms, key)
    if not all(map(_is_bytes, values)):
        raise malformed(f"no bytes {key!r}")
    return tuple(values)


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes) and len(value) <= _LARGEST


def document_in(terms: ConfigRecord, key: str) -> bytes:
    """A signed document of at most 4 MiB."""
    value = terms.get(key)
    if not isinstance(value, bytes) or len(value) > _LARGEST_DOCUMENT:
        raise malformed(f"no document {key!r}")
    return value


def flag_in(terms: ConfigRecord, key: str) -> bool:
    """Yes or no."""
    value = terms.get(key)
    if not isinstance(value, bool):
        raise malformed(f"no yes or no {key!r}")
    return value


def list_in(terms: ConfigRecord, key: str) -> list[Any]:
    """A list of at most 100 000 entries, which are unchecked."""
    value = terms.get(key)
    if not isinstance(value, list) or len(value) > _MOST:
        raise malformed(f"no list {key!r}")
    return value


def number_in(terms: ConfigRecord, key: str) -> int:
    """A whole number, not below 0."""
    value = terms.get(key)
    if type(value) is not int or value < 0:
        raise malformed(f"no {key}")
    return value


def reals_in(terms: ConfigRecord, key: str) -> tuple[float, ...]:
    """Real numbers, at most 100 000; also such as are not finite."""
    values = list_in(terms, key)
    if not all(type(value) is float for value in values):
        raise malformed(f"no real numbers {key!r}")
    return tuple(values)


def map_in(terms: ConfigRecord, name: str) -> dict[str, bytes]:
    """Bytes for names, from two lists of the same length; each name once."""
    names, values = texts_in(terms, f"{name}_of"), several_bytes_in(terms, name)
    if len(names) != len(values) or len(set(names)) != len(names):
        raise malformed(f"not one {name!r} for each name")
    return dict(zip(names, values, strict=True))
