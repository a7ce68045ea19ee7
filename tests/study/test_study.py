"""The study file: what it refuses and how it says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedward.study.errors import DataError, StudyError
from fedward.study.parts import HashedParts
from fedward.study.study import Study, parse_study, read_study

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]

LOCAL: Values = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1}
EACH: Values = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "patients_per_step": 8}
IMAGES: Values = {"kind": "images", "shape": [1, 8, 8]}
ROOT = Path(__file__).resolve().parents[2]


def error_of(values: Values) -> StudyError:
    with pytest.raises(StudyError) as caught:
        parse_study(values)
    return caught.value


# --- Parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{}, IMAGES])
def test_parts_follow_from_names_if_nothing_is_said(data: Values, values_with: ValuesWith) -> None:
    values = values_with({"data": data} if data else {})

    parts = parse_study(values).data.parts

    assert parts == HashedParts(train=0.7, validation=0.1, test=0.2, seed=0)


@pytest.mark.parametrize("privacy", [LOCAL, EACH])
def test_a_private_study_divides_nobody_at_random(privacy: Values, values_with: ValuesWith) -> None:
    error = error_of(values_with({"privacy": privacy, "data.parts": {"by": "random"}}))

    assert error.key == "data.parts.by"
    assert "private" in error.given
    assert '"hash" or "file"' in error.allowed
    assert "one patient more or less" in error.allowed


@pytest.mark.parametrize("by", ["hash", "file"])
def test_a_private_study_divides_by_name_or_as_files_say(by: str, values_with: ValuesWith) -> None:
    parts = parse_study(values_with({"privacy": LOCAL, "data.parts": {"by": by}})).data.parts

    assert parts.by == by


# --- Bad keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("trainning", "training"),
        ("study.nam", "name"),
        ("task.treshold", "threshold"),
        ("training.learning_rat", "learning_rate"),
        ("participation.min_hospital", "min_hospitals"),
        ("data.lable", "label"),
        ("data.features.age.centre", "center"),
        ("data.parts.tset", "test"),
        ("aggregation.beta1", "beta_1"),
        ("privacy.samplingrate", "sampling_rate"),
        ("privacy.records_per_step", "records_per_patient"),
        ("simulation.aplha", "alpha"),
        ("simulation.download.urll", "url"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    path: str, near: str, values_with: ValuesWith
) -> None:
    values = values_with(
        {
            "data.parts": {"by": "random"},
            "aggregation": {"strategy": "fedadam"},
            "privacy": LOCAL,
            "simulation.download": {"url": "https://x.org/a.csv", "md5": "0" * 32},
        }
    )
    place = values
    *tables, key = path.split(".")
    for table in tables:
        place = place[table]
    place[key] = 1

    error = error_of(values)

    assert error.key == path
    assert "unknown key" in error.given
    assert f"did you mean {near}?" in error.allowed


@pytest.mark.parametrize(
    ("changes", "key", "given"),
    [
        ({"training.rounds": "3"}, "training.rounds", '"3"'),
        ({"training.rounds": 1.5}, "training.rounds", "1.5"),
        ({"training.rounds": 3.0}, "training.rounds", "3.0"),
        ({"training.rounds": True}, "training.rounds", "true"),
        ({"training.rounds": 0}, "training.rounds", "0"),
        ({"training.learning_rate": "0.1"}, "training.learning_rate", '"0.1"'),
        ({"training.learning_rate": True}, "training.learning_rate", "true"),
        ({"training.learning_rate": 0}, "training.learning_rate", "0"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate", "NaN"),
        ({"training.learning_rate": float("inf")}, "training.learning_rate", "Infinity"),
        ({"training.momentum": 1}, "training.momentum", "1"),
        ({"training.batch_size": "al"}, "training.batch_size", '"al"'),
        ({"training.batch_size": 0}, "training.batch_size", "0"),
        ({"training.batch_size": 2.5}, "training.batch_size", "2.5"),
        ({"training.optimizer": "sdg"}, "training.optimizer", '"sdg"'),
        ({"training": 3}, "training", "3"),
        ({"study.name": "Tiny Study"}, "study.name", '"Tiny Study"'),
        ({"study.name": 3}, "study.name", "3"),
        ({"study.format": 2}, "study.format", "2"),
        ({"study.format": True}, "study.format", "true"),
        ({"task.kind": "poetry"}, "task.kind", "'poetry'"),
        ({"task.threshold": 1}, "task.threshold", "1"),
        ({"task.threshold": "max_auc"}, "task.threshold", '"max_auc"'),
        ({"task.threshold": "0.5"}, "task.threshold", '"0.5"'),
        ({"task.threshold": float("nan")}, "task.threshold", "NaN"),
        ({"task.classes": "ab"}, "task.classes", '"ab"'),
        ({"task.classes": ["a", 3]}, "task.classes.1", "3"),
        ({"model": "mlp"}, "model", '"mlp"'),
        ({"model.name": 3}, "model.name", "3"),
        ({"data.kind": "tabel"}, "data.kind", "'tabel'"),
        ({"data.label": 3}, "data.label", "3"),
        ({"data.missing": "skip"}, "data.missing", '"skip"'),
        ({"data.features.age": 3}, "data.features.age", "3"),
        ({"data.features.age.center": "55"}, "data.features.age.center", '"55"'),
        ({"data.features.age.scale": 0}, "data.features.age.scale", "0"),
        ({"data.features.age.scale": float("inf")}, "data.features.age.scale", "Infinity"),
        ({"data.features.sex.categories": ["f"]}, "data.features.sex.categories", '["f"]'),
        ({"data.class_values": 3}, "data.class_values", "3"),
        ({"data.parts": {"by": "chance"}}, "data.parts.by", "'chance'"),
        ({"data.parts": {"by": "random", "train": 0}}, "data.parts.train", "0"),
        ({"data.parts": {"by": "hash", "train": 0}}, "data.parts.train", "0"),
        ({"data.parts": {"by": "hash", "seed": -1}}, "data.parts.seed", "-1"),
        ({"data.parts": {"by": "random", "seed": -1}}, "data.parts.seed", "-1"),
        ({"data.parts": {"by": "random", "seed": 1.0}}, "data.parts.seed", "1.0"),
        ({"data": IMAGES | {"shape": [1, 0, 8]}}, "data.shape.1", "0"),
        ({"data": IMAGES | {"scale": 0}}, "data.scale", "0"),
        ({"aggregation": {"strategy": "fedaverage"}}, "aggregation.strategy", "'fedaverage'"),
        (
            {"aggregation": {"strategy": "fedprox", "proximal_mu": -1}},
            "aggregation.proximal_mu",
            "-1",
        ),
        ({"aggregation": {"strategy": "fedadam", "beta_1": 1}}, "aggregation.beta_1", "1"),
        ({"aggregation": "fedavg"}, "aggregation", '"fedavg"'),
        ({"privacy": {"mode": "on"}}, "privacy.mode", "'on'"),
        ({"privacy": LOCAL | {"sampling_rate": 1.1}}, "privacy.sampling_rate", "1.1"),
        ({"privacy": LOCAL | {"sampling_rate": 0}}, "privacy.sampling_rate", "0"),
        ({"privacy": LOCAL | {"delta": 1}}, "privacy.delta", "1"),
        ({"privacy": LOCAL | {"delta": 0}}, "privacy.delta", "0"),
        ({"privacy": LOCAL | {"epsilon": float("inf")}}, "privacy.epsilon", "Infinity"),
        ({"privacy": LOCAL | {"clipping_norm": 0}}, "privacy.clipping_norm", "0"),
        ({"privacy": LOCAL | {"accountant": "gdp"}}, "privacy.accountant", '"gdp"'),
        ({"privacy": EACH | {"patients_per_step": 0}}, "privacy.patients_per_step", "0"),
        ({"privacy": EACH | {"patients_per_step": 1.5}}, "privacy.patients_per_step", "1.5"),
        ({"privacy": LOCAL | {"records_per_patient": 0}}, "privacy.records_per_patient", "0"),
        (
            {"privacy": LOCAL | {"records_per_patient": 10_001}},
            "privacy.records_per_patient",
            "10001",
        ),
        ({"participation.hospitals": 0}, "participation.hospitals", "0"),
        ({"participation.deadline_seconds": -1}, "participation.deadline_seconds", "-1"),
        ({"simulation": {"split": "random"}}, "simulation.split", '"random"'),
        ({"simulation": {"split": "quantity", "shares": [1, 0]}}, "simulation.shares.1", "0"),
    ],
)
def test_a_wrong_value_is_named_by_its_key_in_the_file(
    changes: Values, key: str, given: str, values_with: ValuesWith
) -> None:
    error = error_of(values_with(changes))

    assert (error.key, error.given) == (key, given)
    assert error.allowed


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"task.classes": ["a", "b", "c"]}, "task", "2 classes"),
        ({"task.classes": ["a", "a"]}, "task", "different names"),
        (
            {"task": {"kind": "multiclass", "classes": ["a", "b"], "threshold": 0.3}},
            "task",
            "threshold",
        ),
        ({"training.local_steps": 5}, "training", "local_epochs and local_steps"),
        ({"training.momentum": 0.9, "training.optimizer": "adam"}, "training", "momentum"),
        ({"participation.min_hospitals": 4}, "participation", "min_hospitals"),
        ({"participation.invited": 4}, "participation", "invited"),
        (
            {"participation.invited": 2, "participation.min_hospitals": 3},
            "participation",
            "min_hospitals",
        ),
        (
            {"data.parts": {"by": "random", "train": 0.5, "validation": 0.1, "test": 0.2}},
            "data.parts",
            "train + validation + test",
        ),
        ({"data.label": "age"}, "data", "label"),
        ({"data.features.sex.center": 3.0}, "data.features.sex", "categories"),
        ({"data.features.sex.absent": 0}, "data.features.sex", "categories"),
        (
            {"privacy": LOCAL | {"noise_multiplier": 1.0}},
            "privacy",
            "epsilon and noise_multiplier",
        ),
        (
            {"privacy": {k: v for k, v in LOCAL.items() if k != "epsilon"}},
            "privacy",
            "epsilon and noise_multiplier",
        ),
        (
            {"privacy": LOCAL | {"patients_per_step": 8}},
            "privacy",
            "sampling_rate and patients_per_step",
        ),
        (
            {"privacy": {k: v for k, v in LOCAL.items() if k != "sampling_rate"}},
            "privacy",
            "sampling_rate and patients_per_step",
        ),
        ({"simulation": {"split": "site"}}, "simulation", "site"),
        ({"simulation": {"split": "quantity"}}, "simulation", "shares"),
        ({"simulation": {"files": {"a": "a.csv"}}}, "simulation", "files"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused_at_their_table(
    changes: Values, key: str, says: str, values_with: ValuesWith
) -> None:
    error = error_of(values_with(changes))

    assert error.key == key
    assert says in error.allowed


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {
                "task.threshold": "max_accuracy",
                "data.parts": {"by": "random", "train": 0.8, "validation": 0, "test": 0.2},
            },
            "data.parts.validation",
        ),
        ({"data.class_values": [[0], [1], [2]]}, "data.class_values"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(
    changes: Values, says: str, values_with: ValuesWith
) -> None:
    assert says in error_of(values_with(changes)).line()


@pytest.mark.parametrize(
    "changes",
    [
        {"data.class_values": [[0, 1], [1, 2]]},
        {"data.class_values": [[0], [0.0]]},
        {"data.class_values": [["0"], [0]]},
    ],
)
def test_a_raw_label_means_one_class_only(changes: Values, values_with: ValuesWith) -> None:
    assert "class_values" in error_of(values_with(changes)).line()


def test_a_class_named_by_the_number_of_another_is_refused(values_with: ValuesWith) -> None:
    # A file's label 1 would be the class named "1" (number 0) and the class of number 1 ("0").
    assert "classes" in error_of(values_with({"task.classes": ["1", "0"]})).line()


def test_classes_named_by_their_own_numbers_are_fine(values_with: ValuesWith) -> None:
    assert parse_study(values_with({"task.classes": ["0", "1"]})).task.classes == ("0", "1")


@pytest.mark.parametrize("categories", [["f", "f"], [1, 1.0], ["f", "m", "f"]])
def test_a_category_stands_once(categories: list[object], values_with: ValuesWith) -> None:
    error = error_of(values_with({"data.features.sex.categories": categories}))

    assert error.key.startswith("data.features.sex")


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("study", "name"),
        ("task", "classes"),
        ("model", "name"),
        ("data", "label"),
        ("data", "features"),
        ("training", "rounds"),
        ("training", "learning_rate"),
        ("participation", "hospitals"),
    ],
)
def test_a_needed_key_that_is_missing_is_named(
    table: str, key: str, values_with: ValuesWith
) -> None:
    values = values_with({})
    del values[table][key]

    error = error_of(values)

    assert (error.key, error.given) == (f"{table}.{key}", "nothing")


@pytest.mark.parametrize("table", ["study", "task", "model", "data", "training", "participation"])
def test_a_needed_table_that_is_missing_is_named(table: str, values_with: ValuesWith) -> None:
    values = values_with({})
    del values[table]

    error = error_of(values)

    assert (error.key, error.given) == (table, "nothing")


@pytest.mark.parametrize(("table", "tag"), [("data", "kind"), ("privacy", "mode")])
def test_a_table_of_several_kinds_needs_its_kind(
    table: str, tag: str, values_with: ValuesWith
) -> None:
    error = error_of(values_with({table: {}}))

    assert error.key == table
    assert tag in error.allowed


def test_the_plain_mean_needs_no_name(values_with: ValuesWith) -> None:
    named = {"strategy": "fedavg", "weighting": "uniform"}

    for unnamed, same in [({}, {"strategy": "fedavg"}), ({"weighting": "uniform"}, named)]:
        study = parse_study(values_with({"aggregation": unnamed}))
        assert study.aggregation.strategy == "fedavg"
        assert study == parse_study(values_with({"aggregation": same}))


@pytest.mark.parametrize("key", ["proximal_mu", "beta_1", "malicious"])
def test_a_key_of_another_strategy_does_not_choose_it(key: str, values_with: ValuesWith) -> None:
    error = error_of(values_with({"aggregation": {key: 0}}))

    assert error.key == f"aggregation.{key}"
    assert "unknown key" in error.given


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")]])
def test_a_setting_of_a_model_is_finite_too(value: object, values_with: ValuesWith) -> None:
    # Without this, the study is taken and its digest cannot be computed.
    assert error_of(values_with({"model.dropout": value})).key.startswith("model.dropout")


def test_a_misspelling_is_told_before_the_key_that_it_leaves_missing(
    values_with: ValuesWith,
) -> None:
    values = values_with({"training.learning_rat": 0.1})
    del values["training"]["learning_rate"]

    assert error_of(values).key == "training.learning_rat"


# --- Files ----------------------------------------------------------------------------------------


def test_a_study_is_read_from_its_file(tmp_path: Path, values_with: ValuesWith) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(values_with({})), encoding="utf-8")

    assert read_study(path) == parse_study(values_with({}))


def test_an_error_in_a_file_names_the_file(tmp_path: Path, values_with: ValuesWith) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(values_with({"training.rounds": 0})), encoding="utf-8")

    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert caught.value.line() == (
        f"{path}: training.rounds: given 0; allowed: greater than or equal to 1"
    )


@pytest.mark.parametrize("content", [b"[study", b"\xff\xfe", None])
def test_a_file_that_is_no_study_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_study(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.stem)
def test_every_example_is_a_study(path: Path) -> None:
    assert len(read_study(path).digest()) == 64


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
    path=st.sampled_from(
        [
            *("study", "task.classes", "model", "data", "data.features", "data.features.age"),
            *("data.parts", "training.batch_size", "aggregation", "privacy", "participation"),
            *("simulation", "simulation.source", "simulation.download", "data.class_values"),
        ]
    ),
)
def test_no_value_anywhere_makes_more_than_a_study_error(
    value: object, path: str, values_with: ValuesWith
) -> None:
    found = parsed(values_with({path: value}))

    if isinstance(found, StudyError):
        assert found.key
        assert found.allowed
    else:
        assert len(found.digest()) == 64


def parsed(values: Values) -> Study | StudyError:
    """The study, or the one kind of error that there may be."""
    try:
        return parse_study(values)
    except StudyError as error:
        return error


# --- What follows from a study --------------------------------------------------------------------


def test_all_hospitals_are_asked_and_needed_if_nothing_is_said(values_with: ValuesWith) -> None:
    participation = parse_study(values_with({"participation.hospitals": 5})).participation

    assert (participation.asked, participation.fewest) == (5, 5)


def test_a_round_needs_all_that_were_invited_if_nothing_is_said(values_with: ValuesWith) -> None:
    values = values_with({"participation.invited": 2, "aggregation.secure": False})
    participation = parse_study(values).participation

    assert (participation.asked, participation.fewest) == (2, 2)


def test_the_model_has_one_input_for_each_number_category_and_mark_of_absence(
    values_with: ValuesWith,
) -> None:
    features = {"age": {}, "stage": {"categories": [1, 2, 3]}, "lab": {"absent": 0}}

    assert parse_study(values_with({"data.features": features})).data.input_shape == (1 + 3 + 2,)


EVIL = ["\x1b[2J", "\n", "\x07", "\u202e", "\u2066", "\u200b", "\u2028", "\x9b", "\x7f"]


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
@pytest.mark.parametrize(
    "key",
    ["study.title", "task.classes", "data.label", "data.features", "model.name", "model.kind"],
)
def test_a_study_holds_no_text_that_a_terminal_obeys(
    key: str, evil: str, values_with: ValuesWith
) -> None:
    """Whoever approves it must see what it says, and nothing else."""
    texts: dict[str, object] = {
        "task.classes": [f"a{evil}", "b"],
        "data.features": {f"a{evil}ge": {}, "size": {}},
    }
    values = values_with({key: texts.get(key, f"x{evil}y")})

    error = error_of(values)

    assert error.line().isprintable()
    assert key in error.line()
    assert "printable" in error.allowed


@pytest.mark.parametrize("title", ["Grüße aus Köln", "心臓病", "قلب", "a - b"])
def test_every_script_may_stand_in_a_study(title: str, values_with: ValuesWith) -> None:
    assert parse_study(values_with({"study.title": title})).study.title == title
