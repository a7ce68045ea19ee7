"""Simulations of studies whose scaling constants are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.models.registry import settled
from fedward.privacy.schedule import epsilon_after
from fedward.simulation.audit import Options as AuditOptions
from fedward.simulation.audit import audit
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import OptionError
from fedward.study.study import Study, parse_study, read_study
from tests.simulation.conftest import study_of

ROOT = Path(__file__).resolve().parents[2]
HEART = ROOT.parent / "shared" / "data" / "uci_heart_disease"
HEART_BOUNDS = {
    "age": [20.0, 90.0],
    "resting_blood_pressure": [80.0, 200.0],
    "cholesterol": [100.0, 400.0],
    "max_heart_rate": [60.0, 220.0],
    "st_depression": [0.0, 4.0],
}
FEATURES: dict[str, Any] = {
    "number": {"scale": 60},
    "age": {"bounds": [-2.0, 4.0]},
    "size": {"bounds": [-2.0, 4.0]},
}
LOCAL: dict[str, Any] = {
    "mode": "local",
    "epsilon": 5.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
    "statistics_noise_multiplier": 2.0,
}


def measured(**tables: dict[str, Any]) -> Study:
    data = {"features": FEATURES, "scaling": "measured"}
    return study_of(**{**tables, "data": data})


def run(study: Study, data: Path, out: Path, **options: Any) -> Result:  # noqa: ANN401
    given = {"seed": 2, "workers": 1, "baselines": False, **options}
    return simulate(
        study, Options(out=out, data=data, **given), listener=lambda _: None, say=lambda _: None
    )


def sites(out: Path) -> list[Site]:
    files = sorted((out / "hospitals").glob("*/hospital.toml"))
    return [Site(read_hospital(file), file.parent) for file in files]


def trained_on(study: Study, out: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The training records' inputs as they were read, of all hospitals."""
    found = [site.load(settled(study).digest()).parts["train"] for site in sites(out)]
    return np.concatenate([records.whole.double().numpy() for records in found])


def about(out: Path) -> dict[str, Any]:
    with safe_open(out / "model.safetensors", framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["fedward"])
    return found


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_the_result_and_the_model_s_file_have_the_constants(
    secure: bool, table: Path, tmp_path: Path
) -> None:
    study = measured(aggregation={"strategy": "fedavg", "secure": secure})
    result = run(study, table, tmp_path / "out", baselines=True)
    known = trained_on(study, tmp_path / "out")

    assert result.scaling is not None
    assert list(result.scaling) == ["age", "size"]
    for place, found in enumerate(result.scaling.values(), start=1):
        assert found.center == pytest.approx(known[:, place].mean(), abs=1e-4)
        assert found.scale == pytest.approx(known[:, place].std(), abs=1e-4)
    written = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))["scaling"]
    assert written == about(tmp_path / "out")["scaling"] == result.model_dump()["scaling"]
    assert result.metrics.pooled is not None  # baselines measure their own
    assert len(result.metrics.local) == 3
    assert result.failures == []


def test_a_study_that_measures_nothing_has_none(table: Path, tmp_path: Path) -> None:
    result = run(study_of(), table, tmp_path / "out")

    assert result.scaling is None
    assert "scaling" not in about(tmp_path / "out")


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_a_private_run_costs_at_most_its_epsilon_measuring_included(
    secure: bool, accountant: str, table: Path, tmp_path: Path
) -> None:
    study = measured(
        privacy=LOCAL | {"accountant": accountant},
        aggregation={"strategy": "fedavg", "secure": secure},
    )
    result = run(study, table, tmp_path / "out", baselines=True)

    for site in sites(tmp_path / "out"):
        spent = result.privacy[site.hospital.name].epsilon
        assert spent is not None
        assert 4.9 < spent <= 5.0
        assert [entry.charge.round for entry in site.ledger.entries()] == [0, 1, 2]
    assert result.epsilon_baselines == epsilon_after(settled(study), 2)
    assert result.metrics.pooled is not None
    assert result.failures == []


def test_lost_messages_do_not_measure_or_charge_twice(table: Path, tmp_path: Path) -> None:
    """An answer is lost after the work was done, and a helper falls silent: all is tried again."""
    study = measured(
        privacy=LOCAL,
        participation={"hospitals": 4, "min_hospitals": 3},
        simulation={
            "split": "iid",
            "failures": [
                {"hospital": "A", "exchange": "measure", "attempt": 1, "worked": True, "again": 0},
                {"hospital": "B", "exchange": "unmask", "round": 0, "attempt": 1},
            ],
        },
    )
    result = run(study, table, tmp_path / "out")

    assert result.scaling is not None
    for site in sites(tmp_path / "out"):
        rounds = [entry.charge.round for entry in site.ledger.entries()]
        assert rounds.count(0) == 1


def test_the_same_seed_measures_the_same(table: Path, tmp_path: Path) -> None:
    study = measured(privacy=LOCAL)
    one, other = (run(study, table, tmp_path / name) for name in ("a", "b"))

    assert one.scaling == other.scaling
    assert one.metrics == other.metrics


def test_too_little_left_of_epsilon_is_said_before_anything_is_trained(
    table: Path, tmp_path: Path
) -> None:
    study = measured(privacy=LOCAL | {"statistics_noise_multiplier": 0.5})

    with pytest.raises(OptionError, match="too little is left"):
        run(study, table, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_audit_of_such_a_study_says_what_to_do(table: Path) -> None:
    with pytest.raises(OptionError) as caught:
        audit(measured(privacy=LOCAL), AuditOptions(data=table), say=lambda _: None)

    assert "center and scale" in caught.value.todo


def heart(**privacy: Any) -> Study:  # noqa: ANN401
    """The four hospitals' study with bounds in place of constants."""
    values = read_study(ROOT / "examples" / "heart-disease.toml").model_dump(
        mode="json", exclude_none=True
    )
    values["data"]["scaling"] = "measured"
    for name, bounds in HEART_BOUNDS.items():
        feature = {k: v for k, v in values["data"]["features"][name].items() if k == "absent"}
        values["data"]["features"][name] = {**feature, "bounds": bounds}
    values["training"]["rounds"] = 1
    if privacy:
        values["privacy"] = privacy
    return parse_study(values)


@pytest.mark.skipif(not HEART.is_dir(), reason=f"no heart disease data at {HEART}")
def test_the_constants_of_four_real_hospitals_are_those_of_their_pooled_records(
    tmp_path: Path,
) -> None:
    study = heart()
    result = run(study, HEART, tmp_path / "out")
    pooled = trained_on(study, tmp_path / "out")

    assert result.scaling is not None
    assert len(pooled) == 486
    for feature in study.data.measured:
        values = pooled[:, feature.place]
        if feature.absent is not None:
            values = values[pooled[:, feature.absent] == 0]
        # Each of four hospitals rounds each sum to half of 2^-16; the rest is float64.
        off = 4 * 2**-17 / len(values) + 1e-9
        slack = off if feature.absent is None else 3 * off  # the divisor is rounded too
        found = result.scaling[feature.name]
        assert found.center == pytest.approx(values.mean(), abs=feature.half * slack)
        assert found.scale**2 == pytest.approx(values.var(), abs=feature.half**2 * 3 * slack)
