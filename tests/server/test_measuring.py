"""A server has scaling constants measured once, keeps them, and goes on with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.site import Site
from fedward.server.checkpoint import Checkpoint, Checkpoints
from fedward.server.events import Outcome
from fedward.server.federation import Federation
from fedward.study.messages import EvaluateRequest, TrainRequest
from fedward.study.scaling import Scaling
from fedward.study.study import Study
from tests.privacy.conftest import fast_folder
from tests.secure_sites import PRIVATE, Sites
from tests.server.cut_off import Killed, Moment, Watched, federate, private_study, sites_of

FEATURES = {"age": {"bounds": [-2.0, 4.0]}, "size": {}}
PAID = PRIVATE | {"statistics_noise_multiplier": 0.7}
TABLES: dict[str, dict[str, Any]] = {"data": {"features": FEATURES, "scaling": "measured"}}


def study_with(*, secure: bool = True, private: bool = True) -> Study:
    return private_study(
        **TABLES,
        privacy=PAID if private else {"mode": "off"},
        aggregation={"strategy": "fedavg", "secure": secure},
        training={"rounds": 2},
    )


def ages(sites: Sites, study: Study) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of the training patients of all hospitals."""
    found = [sites[name].load(study.digest()).parts["train"] for name in sites.names]
    return np.concatenate([records.whole[:, 0].double().numpy() for records in found])


def scaling_of(outcome: Outcome) -> dict[str, float]:
    assert outcome.scaling is not None
    assert list(outcome.scaling) == ["age"]
    return outcome.scaling["age"]


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_the_constants_are_mean_and_deviation_of_everybody(secure: bool, tmp_path: Path) -> None:
    study = study_with(secure=secure, private=False)
    sites = sites_of(tmp_path, study)
    known = ages(sites, study)

    with Watched(list(sites.files.values())) as grid:
        found = scaling_of(federate(study, grid, None))

    off = len(sites.names) * 2**-17 / len(known)  # of mean and mean square, in units of half = 3
    assert found["center"] == pytest.approx(known.mean(), abs=3 * off + 1e-6)
    variance = 9 * 3 * off + 1e-5
    assert found["scale"] ** 2 == pytest.approx(known.var(), abs=variance)


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_every_request_carries_the_same_constants(
    secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_with(secure=secure)
    sites = sites_of(tmp_path, study)
    told: list[Scaling | None] = []
    work = Site._work

    def watched(self: Site, request: Any, loaded: Any) -> Any:  # noqa: ANN401
        if isinstance(request, TrainRequest | EvaluateRequest):
            told.append(request.scaling)
        return work(self, request, loaded)

    monkeypatch.setattr(Site, "_work", watched)
    with Watched(list(sites.files.values())) as grid:
        found = scaling_of(federate(study, grid, None))

    assert set(told) == {Scaling((found["center"],), (found["scale"],))}
    assert len(told) == 4 * (2 + 2)  # two rounds; validation and test
    assert sites.charges() == dict.fromkeys("abcd", 3)


MOMENTS: dict[str, Moment] = {
    "before asking": lambda s, n: s[:2] == ("push", "measure"),
    "after some masked": lambda s, n: s[:2] == ("pulled", "measure") and s.node == 2,
    "before unmasking": lambda s, n: s[:3] == ("push", "unmask", 0),
    "after some unmasked": lambda s, n: s[:3] == ("pulled", "unmask", 0) and s.node == 3,
    "after all unmasked": lambda s, n: s[:3] == ("pulled", "unmask", 0) and s.node == 4,
    "in the first round": lambda s, n: s[:3] == ("pulled", "train", 1) and s.node == 2,
    "in the second": lambda s, n: s[:3] == ("push", "unmask", 2),
    "while judging": lambda s, n: s[:2] == ("push", "evaluate"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_server_that_was_killed_comes_to_the_same_constants_and_model(
    moment: Moment, tmp_path: Path
) -> None:
    study = study_with()
    with fast_folder() as folder:
        sites = sites_of(folder / "whole", study)
        with Watched(list(sites.files.values())) as grid:
            whole = federate(study, grid, None)
        sites = sites_of(folder / "killed", study)
        with Watched(list(sites.files.values()), moment) as grid, pytest.raises(Killed):
            federate(study, grid, folder / "checkpoint")
        with Watched(list(sites.files.values())) as grid:
            again = federate(study, grid, folder / "checkpoint")
        charges = sites.charges()

    assert again.scaling == whole.scaling
    assert again.model.tobytes() == whole.model.tobytes()
    assert again.test == whole.test
    assert charges == dict.fromkeys("abcd", 3)  # measured once, and two rounds


def test_a_resumed_run_measures_nothing_anew(tmp_path: Path) -> None:
    study = study_with()
    sites = sites_of(tmp_path, study)
    stop: Moment = lambda s, n: s[:2] == ("push", "train")  # noqa: E731
    with Watched(list(sites.files.values()), stop) as grid, pytest.raises(Killed):
        federate(study, grid, tmp_path / "checkpoint")
    kept = Checkpoints(tmp_path / "checkpoint").latest()
    with Watched(list(sites.files.values())) as grid:
        again = federate(study, grid, tmp_path / "checkpoint")
        kinds = {step.kind for step in grid.steps}

    assert kept is not None
    assert kept.exchange == 0
    assert kept.scaling is not None
    assert again.scaling == kept.scaling.named(study.data)
    assert kinds == {"advertise", "train", "evaluate", "unmask"}


def test_a_hospital_that_does_not_answer_is_not_measured_and_trains_with_the_others_constants(
    tmp_path: Path,
) -> None:
    study = study_with(private=False)
    sites = sites_of(tmp_path, study)
    with Watched(list(sites.files.values())) as grid:
        grid.mute_at[("measure", 0)] = {1}
        outcome = federate(study, grid, None)

    known = [
        sites[name].load(study.digest()).parts["train"].whole[:, 0].double().numpy()
        for name in "bcd"
    ]
    assert scaling_of(outcome)["center"] == pytest.approx(np.concatenate(known).mean(), abs=1e-4)
    assert outcome.refusals == []
    assert [getattr(record, "answered", 0) for record in outcome.rounds] == [4, 4]


def test_a_checkpoint_holds_the_constants_to_the_last_bit(tmp_path: Path) -> None:
    scaling = Scaling((0.1, 1 / 3), (1e-300, 2 / 3))
    model = np.zeros(2, np.float32)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Checkpoint("s", "r", 0, 0, model, scaling=scaling))
    found = checkpoints.latest()

    assert found is not None
    assert found.scaling == scaling


def test_the_federation_is_the_one_that_a_study_without_measuring_has(tmp_path: Path) -> None:
    """Nothing is asked before round 1 where nothing is measured."""
    study = private_study(training={"rounds": 1})
    sites = sites_of(tmp_path, study)
    with Watched(list(sites.files.values())) as grid:
        outcome = Federation(study, grid, run="run", seed=1).train_and_judge()

    assert outcome.scaling is None
    assert "measure" not in {step.kind for step in grid.steps}
