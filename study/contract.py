"""The one form of a study's contract, which its digest is taken of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# Keys that came later, and what they say where a study was written before them.
_LATER = {
    "augmentation": None,
    "bounds": None,
    "class_weights": None,
    "clipping": "flat",
    "duplicates": "keep",
    "early_stopping": None,
    "evaluation_noise_multiplier": None,
    "fhir": None,
    "fill": None,
    "fine_tuning": None,
    "index": None,
    "label_from": None,
    "omop": None,
    "rhythm": False,
    "scaling": "given",
    "span": None,
    "statistics": None,
    "statistics_noise_multiplier": None,
    "tokenizer": None,
}

_LATER_TABLES = {"evaluation": None}
_LATER_OF_ABOUT: dict[str, object] = {"intended_use": "", "limits": []}

_LATER_OF_MODELS = {"pooling": "mean"}
_LATER_OF_A_MODEL: dict[str, dict[str, object]] = {"bag_of_tokens": {"dropout": 0.0}}

_LATER_OF_IMAGES = {
    "label": "label",
    "resize": "refuse",
    "unreadable": "refuse",
    "window": None,
}


def agreed(study: dict[str, Any]) -> dict[str, Any]:
    """What is agreed on, as JSON values that mean the same study in only one way.

    Args:
        study: All tables but `simulation`, as JSON values with defaults in.
    """
    contract: dict[str, Any] = _whole(study)
    tables = [contract[name] for name in ("task", "data", "training", "privacy")]
    for table in (*tables, *_features(contract)):
        _leave_out(table, _LATER)
    _leave_out(contract, _LATER_TABLES)
    _leave_out(contract["study"], _LATER_OF_ABOUT)
    model = contract["model"]
    _leave_out(model, _LATER_OF_MODELS)
    _leave_out(model, _LATER_OF_A_MODEL.get(model["name"], {}))
    if contract["data"]["kind"] == "images":
        _leave_out(contract["data"], _LATER_OF_IMAGES)
    if contract["data"].get("statistics") is not None:
        _leave_out(contract["data"]["statistics"], _LATER)
    if "features" in contract["data"]:
        contract["data"]["features"] = list(contract["data"]["features"].items())
    return contract


def canonical(contract: dict[str, Any]) -> bytes:
    """JSON, keys sorted, no spaces, UTF-8.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(
        contract,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def _features(contract: dict[str, Any]) -> list[dict[str, Any]]:
    return list(contract["data"].get("features", {}).values())


def _leave_out(table: dict[str, Any], later: Mapping[str, object]) -> None:
    for key in [key for key, before in later.items() if key in table and table[key] == before]:
        del table[key]


def _whole(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same value with 1 in place of 1.0, and 0 in place of -0.0."""
    if isinstance(value, dict):
        return {key: _whole(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
