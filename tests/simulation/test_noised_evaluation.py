"""Simulations of studies whose evaluation has noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedward.client.hospital import read_hospital, write_hospital
from fedward.client.site import Site
from fedward.models.registry import settled
from fedward.privacy.ledger import EVALUATION, MECHANISM
from fedward.privacy.schedule import epsilon_after
from fedward.server.federation import Federation
from fedward.simulation.audit import Options as AuditOptions
from fedward.simulation.audit import audit
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study, parse_study, read_study
from tests.simulation.conftest import study_of

ROOT = Path(__file__).resolve().parents[2]
LOCAL: dict[str, Any] = {
    "mode": "local",
    "epsilon": 5.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}
NOISED = LOCAL | {"evaluation_noise_multiplier": 4.0}


def run(study: Study, data: Path | None, out: Path, **options: Any) -> Result:  # noqa: ANN401
    given = {"seed": 2, "workers": 1, "baselines": False, **options}
    return simulate(
        study, Options(out=out, data=data, **given), listener=lambda _: None, say=lambda _: None
    )


def sites(out: Path) -> list[Site]:
    files = sorted((out / "hospitals").glob("*/hospital.toml"))
    return [Site(read_hospital(file), file.parent) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_a_run_costs_at_most_its_epsilon_evaluation_included(
    secure: bool, accountant: str, table: Path, tmp_path: Path
) -> None:
    study = study_of(
        privacy=NOISED | {"accountant": accountant},
        aggregation={"strategy": "fedavg", "secure": secure},
    )
    result = run(study, table, tmp_path / "out", baselines=True)

    for site in sites(tmp_path / "out"):
        spent = result.privacy[site.hospital.name].epsilon
        assert spent is not None
        assert 4.9 < spent <= 5.0
        charges = [(e.charge.round, e.charge.mechanism) for e in site.ledger.entries()]
        rounds = [(n, kind) for n in (1, 2) for kind in (EVALUATION, MECHANISM)]
        assert charges == [*rounds, (4, EVALUATION), (5, EVALUATION)]
    assert result.epsilon_baselines == epsilon_after(settled(study), 2)
    assert result.metrics.pooled is not None
    assert result.failures == []


def test_the_result_says_how_much_noise_there_is(table: Path, tmp_path: Path) -> None:
    result = run(study_of(privacy=NOISED), table, tmp_path / "out")
    silent = run(study_of(privacy=LOCAL), table, tmp_path / "silent")

    said = {"multiplier": 4.0, "norm": 2.0, "deviation": 8.0}
    assert result.evaluation_noise is not None
    assert result.evaluation_noise.model_dump() == said
    for name in ("result.json", "federation.json"):
        document = json.loads((tmp_path / "out" / name).read_text("utf-8"))
        assert document["evaluation_noise"] == said
    assert silent.evaluation_noise is None
    document = json.loads((tmp_path / "silent" / "federation.json").read_text("utf-8"))
    assert "evaluation_noise" not in document


def test_lost_messages_do_not_charge_twice(table: Path, tmp_path: Path) -> None:
    """Answers are lost after the work was done, in a round and in judging: all is tried again."""
    lost = [
        {"hospital": "A", "exchange": "train", "round": 1, "attempt": 1, "worked": True},
        {"hospital": "A", "exchange": "evaluate", "round": 5, "attempt": 1, "worked": True},
        {"hospital": "B", "exchange": "unmask", "round": 4, "attempt": 1},
    ]
    study = study_of(
        privacy=NOISED,
        participation={"hospitals": 4, "min_hospitals": 3},
        simulation={"split": "iid", "failures": [each | {"again": 0} for each in lost]},
    )
    run(study, table, tmp_path / "out")

    for site in sites(tmp_path / "out"):
        evaluated = [
            e.charge.round for e in site.ledger.entries() if e.charge.mechanism == EVALUATION
        ]
        assert evaluated == [1, 2, 4, 5]


def test_where_a_hospital_s_cap_forbids_judging_the_federation_goes_on(
    table: Path, tmp_path: Path
) -> None:
    """It says so with a typed refusal, and the others judge."""
    study = settled(study_of(privacy=NOISED, participation={"hospitals": 4, "min_hospitals": 3}))
    files = make_hospitals(study, table, tmp_path / "hospitals", seed=2)
    poor = read_hospital(files[0])
    terms, least = study.privacy, Site(poor, files[0].parent)
    assert isinstance(terms, LocalPrivacy)
    cap = (epsilon_after(study, 2) or 0.0) - 1e-6  # enough for all but the last judging
    limits = poor.limits.model_copy(update={"epsilon": cap, "delta": terms.delta})
    write_hospital(poor.model_copy(update={"limits": limits}), files[0])

    with InProcessGrid(files) as grid:
        outcome = Federation(study, grid, run="run", seed=2).train_and_judge()

    assert [(r.round, r.refusal.hospital, r.refusal.error) for r in outcome.refusals] == [
        (5, poor.name, "BudgetError")
    ]
    assert outcome.test["records"] >= 0
    assert [e.charge.round for e in least.ledger.entries()] == [1, 1, 2, 2, 4]


def test_the_same_seed_judges_the_same(table: Path, tmp_path: Path) -> None:
    one, other = (run(study_of(privacy=NOISED), table, tmp_path / name) for name in ("a", "b"))

    assert one.metrics == other.metrics
    assert one.validation == other.validation


def test_an_audit_of_such_a_study_watches_its_training(table: Path) -> None:
    result = audit(
        study_of(privacy=NOISED), AuditOptions(data=table, canaries=20), say=lambda _: None
    )

    assert 0 < result.epsilon < 5.0  # it judges nothing, and pays for nothing of it


def demo(**privacy: Any) -> Study:  # noqa: ANN401
    values = read_study(ROOT / "examples" / "breast-cancer.toml").model_dump(
        mode="json", exclude_none=True
    )
    values["privacy"] |= privacy
    return parse_study({**values, "privacy": {k: v for k, v in values["privacy"].items() if v}})


@pytest.mark.slow
@pytest.mark.parametrize("rule", [0.5, "max_balanced_accuracy"])
def test_the_demo_s_figures_are_those_without_noise_as_far_as_noise_allows(
    rule: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    """The model is the same to the last bit. Of 113 patients at four hospitals that add 0.5 each,
    a count is off by 1; an AUC by about five hundredths, and four times that is chance.
    """
    silent = demo(epsilon=None, noise_multiplier=1.5)
    noised = demo(epsilon=None, noise_multiplier=1.5, evaluation_noise_multiplier=0.25)
    if isinstance(rule, str):
        silent, noised = (
            study.model_copy(update={"task": study.task.model_copy(update={"threshold": rule})})
            for study in (silent, noised)
        )
    exact = run(silent, None, tmp_path / "exact")
    noisy = run(noised, None, tmp_path / "noisy")

    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("exact", "noisy")]
    assert models[0][-4000:] == models[1][-4000:]  # the weights; before them stands the digest
    assert noisy.failures == []
    one, other = exact.metrics.federated, noisy.metrics.federated
    assert one.auc is not None
    assert one.auc > 0.98
    assert other.auc == pytest.approx(one.auc, abs=0.2)
    assert one.accuracy is not None
    assert other.accuracy == pytest.approx(one.accuracy, abs=0.1)
    assert other.loss == pytest.approx(one.loss, abs=0.15)
    assert other.records == pytest.approx(one.records, abs=5)
    assert other != one


@pytest.mark.slow
def test_the_demo_with_a_budget_for_both_keeps_to_it_and_its_auc_is_sensible(
    tmp_path: Path,
) -> None:
    """113 patients at four hospitals and twelve evaluations need a generous one."""
    result = run(demo(epsilon=50.0, evaluation_noise_multiplier=1.0), None, tmp_path / "out")

    for spent in result.privacy.values():
        assert spent.epsilon is not None
        assert 49.5 < spent.epsilon <= 50.0
    found = result.metrics.federated
    assert found.auc is not None
    assert 0.7 < found.auc <= 1.0
    assert found.accuracy is not None
    assert found.accuracy > 0.85
    assert not math.isnan(found.loss or 0.0)
    assert result.failures == []
