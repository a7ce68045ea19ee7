"""A study whose scaling constants are measured: its keys, its digest, and possible constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.study.errors import FederationError, StudyError
from fedward.study.messages import EvaluateRequest, Invitation, MeasureRequest, TrainRequest
from fedward.study.scaling import Scaling
from fedward.study.statistics import Measured
from fedward.study.study import Study, parse_study
from fedward.study.wire import (
    numbered,
    pack_request,
    unpack_evaluate_request,
    unpack_measure_request,
    unpack_train_request,
)

ValuesWith = Callable[[Mapping[str, object]], dict[str, Any]]
StudyWith = Callable[[Mapping[str, object]], Study]

FEATURES: dict[str, Any] = {
    "sex": {"categories": ["f", "m"]},
    "age": {"bounds": [20.0, 90.0]},
    "sugar": {"bounds": [0.0, 400.0], "absent": 0.0},
    "ill": {},
}
MEASURED: dict[str, object] = {"data.features": FEATURES, "data.scaling": "measured"}
LOCAL: dict[str, Any] = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1}


def test_measured_features_know_their_place_among_the_inputs(study_with: StudyWith) -> None:
    data = study_with(MEASURED).data

    assert data.measured == (
        Measured("age", 2, None, 20.0, 90.0),
        Measured("sugar", 3, 4, 0.0, 400.0),
    )
    assert [(m.middle, m.half) for m in data.measured] == [(55.0, 35.0), (200.0, 200.0)]


def test_nothing_is_measured_if_nothing_is_said(study_with: StudyWith) -> None:
    assert study_with({}).data.measured == ()


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"data.scaling": "measured"}, "data", "together"),
        ({"data.features": FEATURES}, "data", "together"),
        ({"data.features": {"age": {"bounds": [9, 1]}}}, "data.features.age", "apart"),
        ({"data.features": {"age": {"bounds": [1, 1]}}}, "data.features.age", "apart"),
        ({"data.features": {"age": {"bounds": [1, 2], "center": 1}}}, "data.features.age", "or"),
        ({"data.features": {"age": {"bounds": [1]}}}, "data.features.age.bounds", ""),
        ({"data.features": {"age": {"bounds": [0, 1e300]}}}, "data.features.age.bounds", ""),
        (
            {"data.features": {"age": {"bounds": [0, 1], "categories": ["a", "b"]}}},
            "data.features.age",
            "categories",
        ),
    ],
)
def test_bounds_that_mean_nothing_are_refused(
    changes: dict[str, object], key: str, words: str, values_with: ValuesWith
) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(
            values_with({"data.scaling": "measured", **changes} if key != "data" else changes)
        )

    assert caught.value.key.startswith(key)
    assert words in caught.value.allowed


@pytest.mark.parametrize(
    ("measured", "noise"), [(True, {}), (False, {"statistics_noise_multiplier": 2.0})]
)
def test_a_private_study_gives_noise_for_what_it_measures_and_only_then(
    measured: bool, noise: dict[str, float], values_with: ValuesWith
) -> None:
    changes = {"privacy": LOCAL | noise, **(MEASURED if measured else {})}

    with pytest.raises(StudyError) as caught:
        parse_study(values_with(changes))

    assert caught.value.key == "privacy.statistics_noise_multiplier"


def test_a_key_that_is_not_used_leaves_the_digest_as_it_was(study_with: StudyWith) -> None:
    """What hospitals approved before there was such a key stays approved."""
    given = study_with({"data.scaling": "given", "privacy": LOCAL | {"clipping": "flat"}})

    assert given.digest() == study_with({"privacy": LOCAL}).digest()
    for key in (b"scaling", b"bounds", b"statistics", b'"clipping"'):
        assert key not in given.canonical()


def test_what_is_measured_is_part_of_the_digest(study_with: StudyWith) -> None:
    wider = {**FEATURES, "age": {"bounds": [20.0, 91.0]}}
    noise = {"privacy": LOCAL | {"statistics_noise_multiplier": 2.0}}
    more = {"privacy": LOCAL | {"statistics_noise_multiplier": 3.0}}
    ways: list[Mapping[str, object]] = [
        {"privacy": LOCAL | {"clipping": way}} for way in ("per_layer", "automatic")
    ]
    studies: list[Mapping[str, object]] = [
        *ways,
        {},
        MEASURED,
        MEASURED | {"data.features": wider},
        MEASURED | noise,
        MEASURED | more,
    ]

    assert len({study_with(changes).digest() for changes in studies}) == len(studies)


GOOD = Scaling((55.0, 200.0), (10.0, 50.0))


def test_possible_constants_have_no_fault_and_names(study_with: StudyWith) -> None:
    data = study_with(MEASURED).data

    assert GOOD.fault(data) == ""
    assert GOOD.named(data) == {
        "age": {"center": 55.0, "scale": 10.0},
        "sugar": {"center": 200.0, "scale": 50.0},
    }


@pytest.mark.parametrize(
    "scaling",
    [
        Scaling((55.0,), (10.0,)),
        Scaling((55.0, 200.0), (10.0,)),
        Scaling((19.9, 200.0), (10.0, 50.0)),
        Scaling((55.0, 400.1), (10.0, 50.0)),
        *(Scaling((odd, 200.0), (10.0, 50.0)) for odd in (math.nan, math.inf, -math.inf)),
        *(Scaling((55.0, 200.0), (10.0, odd)) for odd in (math.nan, math.inf, 0.0, -1.0)),
    ],
)
def test_impossible_constants_are_named(scaling: Scaling, study_with: StudyWith) -> None:
    assert scaling.fault(study_with(MEASURED).data)


# --- On the wire ----------------------------------------------------------------------------------

numbers = st.lists(st.floats(width=64), max_size=5).map(tuple)


@pytest.mark.parametrize("invitation", [None, Invitation(2, (b"one", b"two"))])
def test_a_question_for_measuring_survives_the_wire(invitation: Invitation | None) -> None:
    request = MeasureRequest("digest", "run", invitation=invitation)

    packed = pack_request(request)

    assert unpack_measure_request(packed) == request
    assert numbered(packed) == (0, 2 if invitation else 0)


@given(numbers, numbers)
def test_constants_survive_the_wire_to_the_last_bit(
    centers: tuple[float, ...], scales: tuple[float, ...]
) -> None:
    scaling, model = Scaling(centers, scales), np.zeros(2, np.float32)
    train = TrainRequest("digest", "run", 1, model, scaling=scaling)
    evaluate = EvaluateRequest("digest", "run", 4, model, "test", scaling=scaling)

    for found in (
        unpack_train_request(pack_request(train)).scaling,
        unpack_evaluate_request(pack_request(evaluate)).scaling,
    ):
        assert repr(found) == repr(scaling)  # NaN is not equal to itself


@pytest.mark.parametrize("odd", [[1], ["1.0"], [b"1"], [True], 1.0])
@pytest.mark.parametrize("key", ["centers", "scales"])
def test_constants_that_are_no_real_numbers_are_no_message(key: str, odd: Any) -> None:  # noqa: ANN401
    model = np.zeros(2, np.float32)
    packed = pack_request(TrainRequest("d", "r", 1, model, scaling=Scaling((1.0,), (2.0,))))
    packed.config_records["terms"][key] = odd

    with pytest.raises(FederationError):
        unpack_train_request(packed)


def test_a_center_without_a_scale_is_no_message() -> None:
    model = np.zeros(2, np.float32)
    packed = pack_request(TrainRequest("d", "r", 1, model, scaling=Scaling((1.0,), (2.0,))))
    del packed.config_records["terms"]["scales"]

    with pytest.raises(FederationError):
        unpack_train_request(packed)
