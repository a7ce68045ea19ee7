"""What a study may not say: each is refused by its key, with what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study
from tests.study.study_tables import EACH, IMAGES, LOCAL

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]


def error_of(values: Values) -> StudyError:
    with pytest.raises(StudyError) as caught:
        parse_study(values)
    return caught.value


@pytest.mark.parametrize("privacy", [LOCAL, EACH])
def test_a_private_study_divides_nobody_at_random(privacy: Values, values_with: ValuesWith) -> None:
    error = error_of(values_with({"privacy": privacy, "data.parts": {"by": "random"}}))

    assert error.key == "data.parts.by"
    assert "private" in error.given
    assert '"hash" or "file"' in error.allowed
    assert "one patient more or less" in error.allowed


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
