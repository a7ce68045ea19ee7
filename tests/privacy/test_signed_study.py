"""A signed study is read as exactly the study that was signed, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadRequest, BadSignature
from fedward.privacy.signed_json import read_signed, write_signed
from fedward.privacy.signed_study import LARGEST_STUDY, read_signed_study, sign_study
from fedward.study.study import Study, parse_study, read_study

COORDINATOR = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32)))
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
StudyWith = Callable[[Mapping[str, object]], Study]


@pytest.fixture(scope="module")
def study(study_with: StudyWith) -> Study:
    return study_with({})


@pytest.fixture(scope="module")
def document(study: Study) -> bytes:
    return sign_study(study, COORDINATOR)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_read_again(path: Path) -> None:
    study = read_study(path)
    again = read_signed_study(sign_study(study, COORDINATOR), COORDINATOR.public)

    assert again.digest() == study.digest()
    assert again.model_copy(update={"simulation": study.simulation}) == study


finite = st.floats(allow_nan=False, allow_infinity=False)
PRINTED = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
names = st.text(PRINTED, min_size=1, max_size=20)


@given(
    features=st.dictionaries(
        names,
        st.one_of(
            st.fixed_dictionaries(
                {"center": finite, "scale": finite.filter(lambda value: value > 0)},
                optional={"absent": finite},
            ),
            st.fixed_dictionaries({"categories": st.just(["f", "m", 1, 2.5])}),
        ),
        min_size=1,
        max_size=5,
    ),
    title=st.text(PRINTED, max_size=50),
    setting=st.one_of(finite, st.integers(-(2**63), 2**63 - 1), st.booleans(), names),
    rate=st.floats(min_value=1e-300, max_value=1e300),
    seconds=st.floats(min_value=0.1, max_value=1e9),
)
def test_any_study_is_read_again(
    features: dict[str, Any],
    title: str,
    setting: object,
    rate: float,
    seconds: float,
    values_with: Callable[[Mapping[str, object]], dict[str, Any]],
) -> None:
    study = parse_study(
        values_with(
            {
                "study.title": title,
                "model": {"name": "mlp", "hidden": [4, 2], "x": setting},
                "data.features": features,
                "training.learning_rate": rate,
                "participation.deadline_seconds": seconds,
            }
        )
    )
    again = read_signed_study(sign_study(study, COORDINATOR), COORDINATOR.public)

    assert again.digest() == study.digest()
    assert again.canonical() == study.canonical()


def test_the_order_of_features_is_kept(study_with: StudyWith) -> None:
    features: dict[str, dict[str, float]] = {name: {} for name in ("b", "a", "c")}
    study = study_with({"data.features": features})
    again = read_signed_study(sign_study(study, COORDINATOR), COORDINATOR.public)

    assert list(again.model_dump()["data"]["features"]) == ["b", "a", "c"]


def test_the_document_is_deterministic_and_names_the_digest(study: Study, document: bytes) -> None:
    assert sign_study(study, COORDINATOR) == document
    assert json.loads(document)["digest"] == study.digest()
    assert "simulation" not in json.loads(document)["study"]


def test_another_coordinator_signed_nothing(document: bytes) -> None:
    with pytest.raises(BadSignature):
        read_signed_study(document, Identity.generate().public)


@given(data=st.data())
def test_no_byte_may_change(document: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(document) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != document[place]))

    with pytest.raises((BadRequest, BadSignature)):
        read_signed_study(
            document[:place] + bytes([byte]) + document[place + 1 :], COORDINATOR.public
        )


def test_no_bit_may_change_and_nothing_be_cut_off(document: bytes) -> None:
    for place in range(len(document)):
        changed = bytearray(document)
        changed[place] ^= 1 << place % 8
        with pytest.raises((BadRequest, BadSignature)):
            read_signed_study(bytes(changed), COORDINATOR.public)
        with pytest.raises(BadRequest):
            read_signed_study(document[:place], COORDINATOR.public)


def resigned(document: bytes, **changes: Any) -> bytes:  # noqa: ANN401
    body, _ = read_signed(document, largest=LARGEST_STUDY)
    return write_signed({**body, **changes}, "study", COORDINATOR)


def contract_with(document: bytes, changes: Mapping[str, object]) -> dict[str, Any]:
    contract: dict[str, Any] = json.loads(document)["study"]
    for path, value in changes.items():
        table, key = path.split(".")
        contract[table][key] = value
    return contract


@pytest.mark.parametrize(
    "changes",
    [
        {"training.rounds": 4},
        {"training.momentum": False},
        {"training.learning_rate": "0.1"},
        {"training.more": 1},
        {"study.format": 2},
        {"study.format": True},
        {"participation.hospitals": 3.0},
        {"data.features": []},
        {"data.features": {"age": {}}},
        {"data.features": [["age"]]},
        {"data.features": [["age", {}], ["age", {}]]},
        {"data.features": [[["age"], {}]]},
        {"data.features": 7},
    ],
    ids=str,
)
def test_a_study_that_reads_otherwise_than_it_was_signed_is_refused(
    document: bytes, changes: Mapping[str, object]
) -> None:
    contract = contract_with(document, changes)

    with pytest.raises(BadRequest):
        read_signed_study(resigned(document, study=contract), COORDINATOR.public)


@pytest.mark.parametrize(
    "changes",
    [
        *({"digest": "0" * 64}, {"digest": None}, {"format": 2}, {"more": 1}),
        *({"study": None}, {"study": {}}, {"study": []}, {"study": {"data": 7}}),
    ],
    ids=str,
)
def test_what_holds_no_such_study_is_refused_though_it_is_signed(
    document: bytes, changes: dict[str, object]
) -> None:
    with pytest.raises(BadRequest):
        read_signed_study(resigned(document, **changes), COORDINATOR.public)


def test_a_default_left_out_is_another_version_s_study(document: bytes) -> None:
    contract = contract_with(document, {})
    del contract["training"]["momentum"]

    with pytest.raises(BadRequest, match="another study"):
        read_signed_study(resigned(document, study=contract), COORDINATOR.public)


def test_nothing_is_built_from_what_is_not_signed(
    document: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedward.privacy.signed_study as module

    monkeypatch.setattr(module, "parse_study", lambda _: pytest.fail("built"))

    with pytest.raises(BadSignature):
        read_signed_study(document, Identity.generate().public)


def test_a_study_too_large_to_read_is_not_signed(study_with: StudyWith) -> None:
    study = study_with({"study.title": "x" * LARGEST_STUDY})

    with pytest.raises(ValueError, match="4 MiB"):
        sign_study(study, COORDINATOR)
