"""An audit lets the right build pass, and catches builds that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedward.client.charging import charged_steps
from fedward.client.data.records import Records
from fedward.client.site import Site
from fedward.client.training import train
from fedward.models.registry import read_settled
from fedward.privacy.audit import largest_bound
from fedward.privacy.patient_steps import PatientSteps, at_most
from fedward.privacy.schedule import epsilon_after
from fedward.privacy.secret_stream import Doubles, SecretStream
from fedward.privacy.steps import Batch, LocalSteps, PlainSteps
from fedward.simulation.audit import AuditResult, Options, audit
from fedward.study.errors import AuditError, OptionError, TrainingError
from fedward.study.messages import Request
from fedward.study.study import Study, parse_study
from tests.simulation.conftest import COUNT, study_of, write_images, write_table

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast-cancer.toml"


def example(**privacy: Any) -> Study:  # noqa: ANN401
    """The example study; RDP is quicker, and audits as well."""
    study = read_settled(EXAMPLE)
    changed = {"delta": 1e-5, "accountant": "rdp", **privacy}
    return study.model_copy(update={"privacy": study.privacy.model_copy(update=changed)})


def run(study: Study | None = None, **options: Any) -> AuditResult:  # noqa: ANN401
    chosen: dict[str, Any] = {"canaries": 120, "epsilon": 1.0, **options}
    return audit(study or example(), Options(**chosen), say=lambda _: None)


def tiny(**tables: dict[str, Any]) -> Study:
    privacy = {"mode": "local", "epsilon": 5.0, "delta": 1e-4, "sampling_rate": 0.5}
    return study_of(
        privacy={**privacy, "accountant": "rdp", **tables.pop("privacy", {})},
        simulation={"split": "iid", "source": {"patient": "patient"}},
        **tables,
    )


# --- Builds that are wrong ------------------------------------------------------------------------


class Silent(PatientSteps):
    """Claims noise, and adds none."""

    def _leave_noisy(self, totals: list[Tensor]) -> None:
        for parameter, total in zip(self._trainable, totals, strict=True):
            parameter.grad = total / self.divisor


class ByRecord(PatientSteps):
    """Samples and clips records, as if each were a patient of its own."""

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        return super().batches(torch.arange(len(patients)))


class Boundless(PatientSteps):
    """Adds the noise, and clips nothing."""

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        self.noise_multiplier *= self.clipping_norm / 1e6
        self.clipping_norm = 1e6
        return super().prepare(model, optimizer)


class OneLayerBare(PatientSteps):
    """Adds noise to every layer but the first."""

    def _leave_noisy(self, totals: list[Tensor]) -> None:
        super()._leave_noisy(totals)
        self._trainable[0].grad = totals[0] / self.divisor


class Everybody(PatientSteps):
    """Takes everybody in each step, at the noise of a sample."""

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        self.sampling_rate = 1.0
        return super().batches(patients)


class Shuffled(PatientSteps):
    """An ordinary loader in the sampler's place: everybody in turn, in batches of one size."""

    def batches(self, patients: Tensor) -> Iterator[Batch]:
        everybody, number = patients.cpu().unique(return_inverse=True)
        source = torch.Generator().manual_seed(1)
        size = round(len(everybody) * self.sampling_rate)
        turns: list[Tensor] = []
        for _ in range(self.steps):
            turns = turns or list(torch.randperm(len(everybody), generator=source).split(size))
            records = torch.isin(number, turns.pop()).nonzero().flatten()
            batch = at_most(self.records_per_patient, records, number, self.sampling)
            self._drawn = batch.patients.clone()
            yield batch


def build_with(monkeypatch: pytest.MonkeyPatch, steps: type[PatientSteps]) -> None:
    monkeypatch.setattr("fedward.client.charging.PatientSteps", steps)


@pytest.mark.parametrize("seed", range(6))
def test_the_right_build_passes(seed: int) -> None:
    result = run(seed=seed)

    assert result.lower_bound <= result.epsilon
    assert result.drawn == pytest.approx(result.expected, rel=0.2)
    result.refuse_contradiction()


@pytest.mark.parametrize("records", [1, 4, 16])
def test_the_right_build_passes_however_many_records_a_patient_has(records: int) -> None:
    for study in (example(), example(records_per_patient=4)):
        result = run(study, records=records)

        assert result.records == records
        assert result.lower_bound < 0.6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("steps", "records"), [(Silent, 1), (Silent, 5), (OneLayerBare, 1)])
def test_a_build_without_noise_shows_all_that_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, steps: type[PatientSteps], records: int, seed: int
) -> None:
    build_with(monkeypatch, steps)

    result = run(seed=seed, records=records)

    assert result.right >= result.guesses - 1
    assert result.lower_bound > 2.3
    with pytest.raises(AuditError, match="patients lose more than is charged"):
        result.refuse_contradiction()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("steps", "records"), [(ByRecord, 16), (Boundless, 1)])
def test_a_build_that_does_not_limit_what_a_patient_does_is_caught(
    monkeypatch: pytest.MonkeyPatch, steps: type[PatientSteps], records: int, seed: int
) -> None:
    build_with(monkeypatch, steps)

    result = run(seed=seed, records=records)

    assert result.lower_bound > 1.2 > result.epsilon
    with pytest.raises(AuditError):
        result.refuse_contradiction()


@pytest.mark.parametrize("steps", [Everybody, Shuffled])
def test_a_build_that_does_not_sample_as_it_is_charged_is_caught(
    monkeypatch: pytest.MonkeyPatch, steps: type[PatientSteps]
) -> None:
    build_with(monkeypatch, steps)

    result = run()

    assert result.chance < 1e-9
    with pytest.raises(AuditError, match="no Poisson sample of the rate that is charged"):
        result.refuse_contradiction()


def test_a_hospital_that_samples_at_another_rate_than_it_charges_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def oftener(*words: Any, **more: Any) -> LocalSteps:  # noqa: ANN401
        steps = charged_steps(*words, **more)
        return replace(steps, sampling_rate=1.5 * steps.sampling_rate)

    monkeypatch.setattr("fedward.client.site.charged_steps", oftener)

    result = run()

    assert result.drawn == pytest.approx(1.5 * result.expected, rel=0.1)
    with pytest.raises(AuditError, match=f"drawn {result.drawn} times"):
        result.refuse_contradiction()


# --- Hospitals that are wrong: it is the very code that answers an aggregator ---------------------


class NoNoise(SecretStream):
    """A stream whose normal numbers are all 0."""

    def _normal(self, count: int) -> Doubles:
        return np.zeros(count)


@pytest.mark.parametrize("seed", range(3))
def test_a_hospital_whose_stream_of_noise_is_silent_is_caught(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    drawn = Site._stream

    def faulty(self: Site, request: Request, what: str) -> SecretStream:
        return NoNoise(b"k" * 32) if what == "noise" else drawn(self, request, what)

    monkeypatch.setattr(Site, "_stream", faulty)

    result = run(seed=seed)

    with pytest.raises(AuditError):
        result.refuse_contradiction()


@pytest.mark.parametrize("seed", range(3))
def test_a_hospital_that_takes_records_for_patients_is_caught(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    def by_record(model: nn.Module, records: Records, *rest: Any, **more: Any) -> int:  # noqa: ANN401
        apart = replace(records, patients=torch.arange(len(records)))
        return train(model, apart, *rest, **more)

    monkeypatch.setattr("fedward.client.local_work.train", by_record)

    result = run(seed=seed, records=16)

    with pytest.raises(AuditError):
        result.refuse_contradiction()


def test_a_hospital_that_trains_plainly_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def plainly(*words: Any, **more: Any) -> LocalSteps:  # noqa: ANN401
        steps = charged_steps(*words, **more).steps
        return PlainSteps(32, None, steps, torch.Generator())

    monkeypatch.setattr("fedward.client.site.charged_steps", plainly)

    with pytest.raises(AuditError, match="0 private steps were taken, and 40 are charged"):
        run(canaries=10)


def test_a_hospital_that_charges_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.privacy.ledger.Ledger.charge", lambda *_, **__: None)

    with pytest.raises(AuditError, match="40 private steps were taken, and 0 are charged"):
        run(canaries=10)


def test_by_record_is_right_for_patients_of_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(records=1)
    build_with(monkeypatch, ByRecord)

    after = run(records=1)

    assert replace(after, seconds=0) == replace(before, seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.2, 3.0, 30.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_right_build_passes_at_every_budget(epsilon: float, seed: int) -> None:
    result = run(seed=seed, epsilon=epsilon, canaries=300)

    assert result.lower_bound <= result.epsilon


@pytest.mark.slow
def test_a_larger_budget_is_lost_in_fact() -> None:
    """The bound is not empty: the right build does lose some of what it is charged."""
    assert run(epsilon=50.0, canaries=500).lower_bound > 1


# --- What it says ---------------------------------------------------------------------------------


def test_it_charges_what_a_hospital_would_be_charged() -> None:
    study = example()
    asked = study.model_copy(update={"privacy": study.privacy.model_copy(update={"epsilon": 2.0})})

    result = run(study, epsilon=2.0, canaries=10)

    assert result.epsilon == epsilon_after(asked, asked.training.rounds, result.patients)
    assert result.epsilon == pytest.approx(2.0, abs=0.02)
    assert result.delta == 1e-5


def test_it_keeps_the_budget_of_the_study() -> None:
    assert run(example(epsilon=3.0), epsilon=None, canaries=10).epsilon == pytest.approx(3, abs=0.1)


def test_a_study_that_sets_its_noise_can_be_audited_at_a_budget() -> None:
    study = example(epsilon=None, noise_multiplier=0.9)

    assert run(study, epsilon=None, canaries=10).epsilon > 5
    assert run(study, epsilon=1.5, canaries=10).epsilon == pytest.approx(1.5, abs=0.02)


def test_a_seed_repeats_it() -> None:
    one, same, other = (run(canaries=40, seed=seed) for seed in (5, 5, 6))

    assert replace(one, seconds=0) == replace(same, seconds=0)
    assert replace(one, seconds=0) != replace(other, seconds=0)


def test_it_is_about_the_smallest_hospital() -> None:
    result = run(canaries=30)

    assert (result.hospital, result.patients) == ("D", 44)
    assert (result.canaries, result.guesses, result.records) == (30, 15, 1)
    assert 0 < result.included < 30
    assert result.weights == 30 * 32 + 32 + 32 * 2 + 2
    assert result.largest_bound == largest_bound(30, 1e-5)


def test_canaries_have_as_many_records_as_the_study_lets_into_a_step() -> None:
    assert run(example(records_per_patient=3), canaries=10).records == 3


def test_it_says_what_to_ask_for_where_it_can_show_nothing() -> None:
    result = run(example(epsilon=None, noise_multiplier=2.0), epsilon=None, canaries=60)

    assert result.epsilon == pytest.approx(4.36, abs=0.01)
    assert result.largest_bound == pytest.approx(2.25, abs=0.01)
    assert result.smaller_epsilon == 1
    assert result.more_canaries == 1000


def test_it_says_where_no_number_of_canaries_would_do() -> None:
    result = run(example(epsilon=None, noise_multiplier=1.0), epsilon=None, canaries=60)

    assert result.epsilon > 12
    assert result.more_canaries is None


# --- What it takes, and what it refuses -----------------------------------------------------------


def test_patients_of_several_records_are_patients(tmp_path: Path) -> None:
    data = write_table(tmp_path / "records.csv", range(COUNT))

    result = run(tiny(), data=data, canaries=20, epsilon=None)

    assert result.patients == 6  # of ten at a hospital, two records each


def test_pictures_can_be_audited(tmp_path: Path) -> None:
    values = tiny().model_dump(mode="json", exclude_none=True)
    pictures = {"kind": "images", "shape": [1, 8, 8], "parts": values["data"]["parts"]}
    network = {"name": "small_cnn", "channels": [4], "dropout": 0.5}
    study = parse_study(
        {**values, "data": pictures, "model": network, "simulation": {"split": "iid"}}
    )

    result = run(study, data=write_images(tmp_path / "pictures", 60), canaries=20, epsilon=None)

    assert result.patients == 10  # of twenty at a hospital
    assert result.lower_bound <= result.epsilon


def test_a_study_without_privacy_has_nothing_to_audit() -> None:
    with pytest.raises(OptionError, match="not private"):
        run(study_of())


@pytest.mark.parametrize(
    ("delta", "canaries", "advice"),
    [(1e-3, 957, "give --canaries 956 or fewer"), (0.025, 2, r"lower \[privacy\] delta")],
)
def test_a_delta_too_large_for_so_many_canaries_is_refused(
    delta: float, canaries: int, advice: str
) -> None:
    with pytest.raises(OptionError, match=advice):
        run(example(delta=delta), canaries=canaries)


def test_data_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match="no such file"):
        run(tiny(), data=Path("nowhere.csv"))


def test_training_that_comes_to_no_number_is_told() -> None:
    study = example(clipping_norm=1e6)
    fast = study.training.model_copy(update={"learning_rate": 1e38})  # even the noise overflows

    with pytest.raises(TrainingError, match="not finite"):
        run(study.model_copy(update={"training": fast}), canaries=10)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    run(canaries=10)

    assert list(tmp_path.iterdir()) == []
