"""A study that the coordinator signed: how an offer to hospitals can be told from anybody's.

The document is canonical JSON: the study's contract as `Study.canonical` has it, its digest and the
signature of both. Reading gives a study with the same digest, or nothing. The table `simulation` is
no part of the contract and is not in it.
"""

from __future__ import annotations

from typing import Any

from fedward.privacy.identity import Identity, verify
from fedward.privacy.protocol_errors import BadRequest
from fedward.privacy.signed_json import canonical, read_signed, write_signed
from fedward.study.errors import InputError
from fedward.study.study import Study, parse_study

LARGEST_STUDY = 4 << 20  # bytes; room for tens of thousands of features
_FORMAT = 1
_PURPOSE = "study"


def sign_study(study: Study, coordinator: Identity) -> bytes:
    """The signed document of a study.

    Args:
        study: Settled, so that its digest covers every setting of its model.
        coordinator: Who signs.

    Raises:
        ValueError: The document could not be read again: it would be larger than 4 MiB, or the
            study holds a value that another machine would read differently.
    """
    document = write_signed(_body(study), _PURPOSE, coordinator)
    try:
        read_signed_study(document, coordinator.public)
    except BadRequest as error:
        raise ValueError(f"this study cannot be signed: {error.what}") from None
    return document


def read_signed_study(document: bytes, coordinator: bytes) -> Study:
    """Check a document and build the study in it; its digest is the one that was signed.

    Args:
        document: At most 4 MiB; looked at no further if it is larger.
        coordinator: The coordinator's public key, 32 bytes, as pinned.

    Raises:
        BadRequest: It is too large, malformed, not canonical, or this version of Fedward reads
            another study in it than the one that was signed.
        BadSignature: The coordinator did not sign it.
    """
    try:
        body, signature = read_signed(document, largest=LARGEST_STUDY)
    except ValueError as error:
        raise _malformed(str(error)) from None
    verify(coordinator, _PURPOSE, canonical(body), signature)
    study = _rebuilt(body.get("study"))
    # As bytes, not as values: to Python 1 equals true.
    if canonical(_body(study)) != canonical(body):
        raise _malformed("this version of fedward reads another study in it than was signed")
    return study


def _rebuilt(contract: object) -> Study:
    if not isinstance(contract, dict):
        raise _malformed("it holds no study")
    try:
        return parse_study(_values(contract))
    except (InputError, ValueError, TypeError, RecursionError) as error:
        raise _malformed(str(error)) from None


def _values(contract: dict[str, Any]) -> dict[str, Any]:
    """What the study's file would hold: features are a table there, and pairs in the contract."""
    data = contract.get("data")
    if not isinstance(data, dict) or "features" not in data:
        return contract
    return {**contract, "data": {**data, "features": dict(data["features"])}}


def _body(study: Study) -> dict[str, object]:
    return {"digest": study.digest(), "format": _FORMAT, "study": study.contract()}


def _malformed(why: str) -> BadRequest:
    return BadRequest(
        f"not a signed study ({why:.300})",
        todo="the coordinator signs a study with fedward consortium sign, of the same version",
    )
