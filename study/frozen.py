"""The base of every value that is read from a TOML file, and the reading itself."""

from __future__ import annotations

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedward.study.errors import DataError

T = TypeVar("T", bound=BaseModel)


class Frozen(BaseModel):
    """An immutable value that refuses unknown keys, wrong types, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class Fault(NamedTuple):
    """One thing that is wrong with a file: which key, what was given, what is allowed."""

    key: str
    given: str
    allowed: str


def read_toml(path: Path, *, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.
        what: What kind of file it should be, for the error message.

    Raises:
        DataError: The file is missing, unreadable or not TOML.
    """
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no such {what} file", todo="check the path", where=where) from None
    except UnicodeDecodeError:
        raise DataError(
            "cannot be read (it is not UTF-8 text)", todo=f"give a {what} file", where=where
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", todo=f"give a readable {what} file", where=where
        ) from None
    return parse_toml(text, where=where)


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Read the text of a TOML file.

    Args:
        text: The file's content.
        where: The file, for the error message.

    Raises:
        DataError: It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # absurd numbers and nesting are not TOML's own
        raise DataError(
            f"not valid TOML: {error}", todo="mend the file at that place", where=where
        ) from None


def validate(kind: type[T], values: Mapping[str, Any]) -> T | Fault:
    """Read values into a frozen type, or say what the first fault is.

    The values pass through JSON, where a list may become a tuple while every other type is strict.
    """
    try:
        return kind.model_validate_json(json.dumps(values, default=_as_table))
    except ValidationError as error:
        return _first_fault(kind, error, values)


def _as_table(value: object) -> dict[str, str]:
    """TOML's dates and times, of which no study has any, in a form that no text field takes."""
    return {type(value).__name__: str(value)}


def _first_fault(kind: type[BaseModel], error: ValidationError, values: Mapping[str, Any]) -> Fault:
    faults = error.errors(include_url=False, include_context=True)
    # A misspelt key often makes a needed one missing too: the misspelling is the better message.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    absent = fault["type"] in {"missing", "extra_forbidden"}
    key = ".".join(_without_tags(fault["loc"], values, absent=absent)) or "the whole file"
    if fault["type"] == "extra_forbidden":
        return Fault(key, "an unknown key", _known_keys(kind, fault["loc"]))
    if fault["type"] in {"missing", "union_tag_not_found"}:
        return Fault(key, "nothing", _needed(fault))
    given = "impossible numbers" if isinstance(fault["input"], dict) else _shown(fault["input"])
    if fault["type"] == "union_tag_invalid":
        tag = str(fault["ctx"]["discriminator"]).strip("'")
        return Fault(f"{key}.{tag}", repr(fault["ctx"]["tag"]), str(fault["ctx"]["expected_tags"]))
    allowed = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return Fault(key, given, allowed)


def _needed(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return "a value: this key is needed"
    return f"a table with the key {fault['ctx']['discriminator']}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _without_tags(loc: Sequence[str | int], values: Any, *, absent: bool) -> list[str]:  # noqa: ANN401
    """The path as the file has it: pydantic puts the tags of unions between the keys.

    Args:
        loc: Pydantic's path.
        values: What the file has.
        absent: Whether the last step may be a key that the file lacks, or should.
    """
    path: list[str] = []
    for place, step in enumerate(loc):
        last = absent and place == len(loc) - 1
        if isinstance(values, Mapping) and (step in values or last):
            path.append(str(step))
            values = values.get(str(step))
        elif isinstance(values, list | tuple) and isinstance(step, int) and step < len(values):
            path.append(str(step))
            values = values[step]
    return path


def _known_keys(kind: Any, loc: Sequence[str | int]) -> str:  # noqa: ANN401
    for step in loc[:-1]:
        kind = _inside(kind, step)
    names = sorted(getattr(_only_model(kind), "model_fields", {}))
    near = difflib.get_close_matches(str(loc[-1]), names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return ", ".join(names) + hint


def _inside(kind: Any, step: str | int) -> Any:  # noqa: ANN401
    """The type that one step of a path leads to."""
    kind = _only_model(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(step))
        return field.annotation if field else kind
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _inside(inner[0], step)
    if origin in {typing.Union, types.UnionType}:
        tagged = [k for k in inner if step in _tags(k)]
        models = [k for k in inner if hasattr(k, "model_fields")]
        return tagged[0] if tagged else _inside(models[0], step) if models else kind
    return inner[-1] if origin is dict else inner[0] if inner else kind


def _only_model(kind: Any) -> Any:  # noqa: ANN401
    """The model inside an annotation or an optional one; anything else as it is."""
    if typing.get_origin(kind) is Annotated:
        return _only_model(typing.get_args(kind)[0])
    models = [k for k in typing.get_args(kind) if hasattr(_only_model(k), "model_fields")]
    alone = typing.get_origin(kind) in {typing.Union, types.UnionType} and len(models) == 1
    return _only_model(models[0]) if alone else kind


def _tags(kind: Any) -> set[object]:  # noqa: ANN401
    """Every literal that a model's fields allow: one of them is its tag in a union."""
    fields = getattr(kind, "model_fields", {}).values()
    return {v for f in fields for v in typing.get_args(f.annotation)}
