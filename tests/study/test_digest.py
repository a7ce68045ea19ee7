"""The digest of a study, which is what hospitals approve."""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedward.study.study import Study, parse_study

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]

LOCAL: Values = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1}
EACH: Values = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "patients_per_step": 8}
IMAGES: Values = {"kind": "images", "shape": [1, 8, 8]}


# Written by hand, from what `canonical` promises.
CANONICAL = (
    '{"aggregation":{"clip":100,"colluding":0,"max_records":10000,"min_honest":2,"secure":true,'
    '"strategy":"fedavg","two_hospitals":false,"weighting":"examples"},'
    '"data":{"class_values":null,"features":['
    '["age",{"absent":null,"categories":null,"center":55,"scale":10}],'
    '["sex",{"absent":null,"categories":["f","m"],"center":0,"scale":1}]],'
    '"kind":"table","label":"diagnosis","missing":"refuse",'
    '"parts":{"by":"hash","seed":0,"test":0.2,"train":0.7,"validation":0.1}},'
    '"model":{"hidden":[4],"name":"mlp"},'
    '"participation":{"deadline_seconds":3600,"hospitals":3,"invited":null,'
    '"min_hospitals":null,"wait_seconds":600},'
    '"privacy":{"mode":"off"},'
    '"study":{"format":1,"name":"tiny","title":""},'
    '"task":{"classes":["benign","malignant"],"kind":"binary","threshold":0.5},'
    '"training":{"batch_size":32,"learning_rate":0.1,"local_epochs":1,"local_steps":null,'
    '"momentum":0,"optimizer":"sgd","rounds":3,"schedule":"constant","weight_decay":0}}'
)
PINNED = "e7b88a7d137d23728377d32a075deda8a4f070bbc8aa56f028484399ef517bcb"


def test_the_canonical_form_and_digest_of_a_known_study_are_known(values_with: ValuesWith) -> None:
    """If this fails, every hospital has to approve every study anew: raise `format`, or undo it."""
    study = parse_study(values_with({}))

    assert study.canonical().decode() == CANONICAL
    assert study.digest() == PINNED


def test_the_digest_is_the_sha256_of_the_canonical_form(values_with: ValuesWith) -> None:
    study = parse_study(values_with({"study.title": "Größe"}))

    assert study.digest() == hashlib.sha256(study.canonical()).hexdigest()
    assert "Größe".encode() in study.canonical()


def test_the_canonical_form_is_sorted_json_without_spaces(values_with: ValuesWith) -> None:
    canonical = parse_study(values_with({})).canonical().decode()

    again = json.dumps(
        json.loads(canonical), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert canonical == again


WRITTEN = """
[study]
name = "tiny"
[task]
kind = "binary"
classes = ["benign", "malignant"]
[model]
name = "mlp"
hidden = [4]
[data]
kind = "table"
label = "diagnosis"
[data.features]
age = { center = 55.0, scale = 10.0 }
sex = { categories = ["f", "m"] }
[training]
rounds = 3
local_epochs = 1
learning_rate = 0.1
[participation]
hospitals = 3
"""

WRITTEN_ANOTHER_WAY = """
# who
participation.hospitals = 3
participation.wait_seconds = 600       # a default, written out
aggregation = { weighting = "examples", clip = 1e2, secure = true, max_records = 10_000 }
privacy.mode = "off"

[training]
learning_rate   = 1e-1
local_epochs = 1
rounds = 0x3
batch_size = 32
weight_decay = 0

[model]
hidden = [
    4,
]
name = 'mlp'

[task]
threshold = 0.5
classes = [ "benign" , "malignant" ]
kind = "binary"

[data]
label = "diagnosis"
missing = "refuse"
kind = "table"
features = { age = { scale = 10, center = 55 }, sex = { categories = ["f", "m"] } }
parts = { by = "hash", test = 0.2, train = 0.7, validation = 0.1, seed = 0 }

[study]
format = 1
title = ""
name = "tiny"

[simulation]
split = "dirichlet"
alpha = 0.1
"""


def test_the_same_study_in_other_words_has_the_same_digest(values_with: ValuesWith) -> None:
    one, other = (parse_study(tomllib.loads(text)) for text in (WRITTEN, WRITTEN_ANOTHER_WAY))

    assert one.digest() == other.digest() == parse_study(values_with({})).digest()


def turned(value: object) -> object:
    """The same values with the keys of every table the other way round."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return value


def test_the_order_of_tables_and_keys_does_not_matter_but_that_of_features_does(
    values_with: ValuesWith,
) -> None:
    values = values_with({})
    reordered = turned(values)
    assert isinstance(reordered, dict)
    reordered["data"]["features"] = values["data"]["features"]

    assert parse_study(reordered).digest() == parse_study(values).digest()


def test_the_order_of_features_changes_the_digest(values_with: ValuesWith) -> None:
    """The features' order is that of the model's inputs: another order is another model."""
    values = values_with({})
    other = copy.deepcopy(values)
    other["data"]["features"] = dict(reversed(values["data"]["features"].items()))

    assert parse_study(other).digest() != parse_study(values).digest()


@pytest.mark.parametrize(
    "simulation",
    [
        {"split": "dirichlet", "alpha": 0.1},
        {"split": "site", "site": "hospital"},
        {"source": {"format": "csv", "delimiter": ";"}},
        {"download": {"url": "https://example.org/a.csv", "md5": "0" * 32}},
    ],
)
def test_no_simulation_changes_the_digest(simulation: Values, values_with: ValuesWith) -> None:
    changed = parse_study(values_with({"simulation": simulation}))

    assert changed.digest() == parse_study(values_with({})).digest()


CHANGES: list[Values] = [
    {"study.name": "other"},
    {"study.title": "Other"},
    {"study.intended_use": "A second look at X-rays"},
    {"study.limits": ["Not for children."]},
    {"study.limits": ["Not for children.", "Not for adults."]},
    {"task.classes": ["malignant", "benign"]},
    {"task.threshold": 0.4},
    {"task.threshold": "max_accuracy"},
    {"task.kind": "multiclass"},
    {"model.name": "small_cnn"},
    {"model.hidden": [5]},
    {"model.hidden": [4, 4]},
    {"model.other": 1},
    {"data.label": "finding"},
    {"data.missing": "drop"},
    {"data.features.age.center": 54.0},
    {"data.features.age.scale": 11.0},
    {"data.features.age.absent": 0.0},
    {"data.features.weight": {}},
    {"data.features.sex.categories": ["m", "f"]},
    {"data.features.sex.categories": ["f", "m", "x"]},
    {"data.class_values": [[0], [1]]},
    {"data.class_values": [[1], [0]]},
    {"data.parts": {"by": "file"}},
    {"data.parts": {"by": "random"}},
    {"data.parts": {"by": "hash", "seed": 1}},
    {"data.parts": {"by": "random", "seed": 1}},
    {"data.parts": {"by": "random", "train": 0.6, "validation": 0.2}},
    {"data": IMAGES},
    {"data": IMAGES | {"shape": [1, 8, 9]}},
    {"data": IMAGES | {"center": 0.4}},
    {"training.rounds": 4},
    {"training.local_epochs": 2},
    {"training.batch_size": 31},
    {"training.batch_size": "all"},
    {"training.optimizer": "adam"},
    {"training.learning_rate": 0.2},
    {"training.momentum": 0.9},
    {"training.weight_decay": 0.01},
    {"aggregation.weighting": "uniform"},
    {"aggregation.max_records": 9_999},
    {"aggregation.clip": 99.0},
    {"aggregation.secure": False},
    {"aggregation.colluding": 1},
    {"aggregation.min_honest": 3},
    {"aggregation.two_hospitals": True},
    {"aggregation": {"strategy": "fedprox", "proximal_mu": 0.0}},
    {"aggregation": {"strategy": "fedprox", "proximal_mu": 0.1}},
    {"aggregation": {"strategy": "fedavgm"}},
    {"aggregation": {"strategy": "fedavgm", "server_momentum": 0.5}},
    {"aggregation": {"strategy": "fedadagrad"}},
    {"aggregation": {"strategy": "fedadam"}},
    {"aggregation": {"strategy": "fedadam", "tau": 0.1}},
    {"aggregation": {"strategy": "fedyogi"}},
    {"aggregation": {"strategy": "qfedavg", "q": 0.0}},
    {"aggregation": {"strategy": "qfedavg", "q": 1.0}},
    {"aggregation": {"strategy": "qfedavg", "q": 1.0, "max_weight": 99}},
    {"aggregation": {"strategy": "fedmedian", "secure": False}},
    {"aggregation": {"strategy": "fedtrimmedavg", "secure": False}},
    {"aggregation": {"strategy": "fedtrimmedavg", "secure": False, "trimmed": 0.1}},
    {"aggregation": {"strategy": "krum", "secure": False, "malicious": 0}},
    {"aggregation": {"strategy": "krum", "secure": False, "malicious": 0, "selected": 2}},
    {"aggregation": {"strategy": "bulyan", "secure": False, "malicious": 0}},
    {"privacy": LOCAL},
    {"privacy": LOCAL | {"epsilon": 2.0}},
    {"privacy": LOCAL | {"delta": 1e-6}},
    {"privacy": LOCAL | {"clipping_norm": 2.0}},
    {"privacy": LOCAL | {"sampling_rate": 0.2}},
    {"privacy": LOCAL | {"records_per_patient": 2}},
    {"privacy": EACH},
    {"privacy": EACH | {"patients_per_step": 9}},
    {"privacy": LOCAL | {"accountant": "rdp"}},
    {"participation.hospitals": 4},
    {"participation": {"hospitals": 5}},
    {"participation": {"hospitals": 5, "invited": 4}},
    {"participation": {"hospitals": 5, "min_hospitals": 4}},
    {"participation": {"hospitals": 5, "invited": 4, "min_hospitals": 4}},
    {"participation.wait_seconds": 1.0},
    {"participation.deadline_seconds": 1.0},
]


def test_every_change_of_the_contract_changes_the_digest(values_with: ValuesWith) -> None:
    digests = [parse_study(values_with(changes)).digest() for changes in [{}, *CHANGES]]

    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"data.features.sex.categories": [1, 2]}, {"data.features.sex.categories": [1.0, 2.0]}),
        ({"data.class_values": [[0], [1]]}, {"data.class_values": [[0.0], [1.0]]}),
        ({"model.dropout": 1}, {"model.dropout": 1.0}),
        ({"data.features.age.center": 0.0}, {"data.features.age.center": -0.0}),
    ],
)
def test_one_number_written_in_two_ways_gives_one_digest(
    one: Values, other: Values, values_with: ValuesWith
) -> None:
    digests = {parse_study(values_with(changes)).digest() for changes in (one, other)}

    assert len(digests) == 1


def test_a_study_cannot_be_changed(values_with: ValuesWith) -> None:
    study = parse_study(values_with({}))

    with pytest.raises(ValidationError):
        study.training.rounds = 1000
    with pytest.raises(ValidationError):
        study.model.name = "other"
    study.model.settings["hidden"] = 1024

    assert study.digest() == parse_study(values_with({})).digest()


anything = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)
name = st.text(  # without what terminals and editors obey: no study holds that
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]),
    min_size=1,
    max_size=8,
)
feature = st.one_of(
    st.fixed_dictionaries({}, optional={"center": anything, "scale": positive}),
    st.fixed_dictionaries({"absent": anything}),
    st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True).map(
        lambda categories: {"categories": categories}
    ),
    st.lists(name, min_size=2, max_size=4, unique=True).map(lambda names: {"categories": names}),
)
change = st.fixed_dictionaries(
    {},
    optional={
        "study.title": name,
        "task.threshold": st.floats(0.01, 0.99) | st.just("max_balanced_accuracy"),
        "model.hidden": st.lists(st.integers(1, 64), max_size=3),
        "data.features": st.dictionaries(
            name.filter(lambda text: text != "diagnosis"), feature, min_size=1, max_size=3
        ),
        "data.missing": st.sampled_from(["refuse", "drop"]),
        "training.learning_rate": positive,
        "training.batch_size": st.integers(1, 999) | st.just("all"),
        "training.weight_decay": positive,
        "aggregation": st.fixed_dictionaries(
            {"strategy": st.sampled_from(["fedavg", "fedavgm", "fedadam"])},
            optional={
                "clip": positive,
                "max_records": st.integers(1, 99_999),
                "min_honest": st.integers(2, 3),
                "secure": st.booleans(),
            },
        ),
        "privacy": st.builds(
            lambda base, delta, most: base | {"delta": delta, "records_per_patient": most},
            st.sampled_from([LOCAL, EACH]),
            st.floats(1e-9, 0.5),
            st.integers(1, 10_000),
        ),
        "participation.min_hospitals": st.integers(1, 3),
        "simulation": st.fixed_dictionaries({"alpha": positive}),
    },
)


def possible(changes: Values) -> Values:
    """Of three hospitals all must answer, unless sums are plain."""
    if changes.get("participation.min_hospitals", 3) == 3:
        return changes
    terms = changes.get("aggregation", {"strategy": "fedavg"})
    return {**changes, "aggregation": {**terms, "secure": False}}


@given(changes=change.map(possible))
def test_a_study_written_to_toml_and_read_again_is_the_same(
    changes: Values, values_with: ValuesWith
) -> None:
    study = parse_study(values_with(changes))

    text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True, exclude={"simulation"}))
    again = parse_study(tomllib.loads(text))

    assert again.digest() == study.digest()
    assert isinstance(again, Study)


def test_dropout_of_a_bag_of_tokens_came_later_than_that_of_others(
    values_with: ValuesWith,
) -> None:
    def digest(**model: object) -> str:
        return parse_study({**values_with({}), "model": model}).digest()

    assert digest(name="bag_of_tokens", dropout=0.0) == digest(name="bag_of_tokens")
    assert digest(name="bag_of_tokens", dropout=0.5) != digest(name="bag_of_tokens")
    assert digest(name="mlp", dropout=0.0) != digest(name="mlp")
