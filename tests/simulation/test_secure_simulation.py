"""A study learns the same whether or not anybody can look into its sums.

Why the final models may differ, and by how much. The model is linear, so a step of descent on the
mean cross-entropy is a map that brings no two models further apart, if the learning rate is below
2 / L; L, the largest curvature, is at most |x|^2 / 2, where x is the longest record with a 1 for
the bias. A round's mean of such maps is one too. What a round adds is the rounding of its sum: each
of n hospitals is off by less than `largest weight * clip / room` in each of d coordinates, where
room = floor((2^31 - 1) / n), and the sum is divided by its weight W. After R rounds the models are
no further apart than

    R * sqrt(d) * n * largest weight * clip / (room * W)

and what floating-point numbers themselves are off by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.server.events import Outcome
from fedward.server.federation import Federation
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.result import Metrics, Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.messages import Part
from fedward.study.study import Study, parse_study
from tests.simulation.conftest import COUNT, study_of, write_table

ROUNDS, HOSPITALS, RATE = 4, 3, 0.1
FLOAT = 1e-5  # float32 over four rounds of weights near 1
ROOT = Path(__file__).resolve().parents[2]
PNEUMONIA = ROOT.parent / "shared" / "data" / "pneumoniamnist" / "pneumoniamnist.npz"


def study_with(**aggregation: Any) -> Study:  # noqa: ANN401
    """Logistic regression, whose steps bring no two models further apart."""
    return study_of(
        model={"name": "mlp", "hidden": []},
        training={"rounds": ROUNDS, "learning_rate": RATE},
        aggregation={"strategy": "fedavg", **aggregation},
    )


def records(files: list[Path], study: Study, part: Part) -> tuple[Tensor, NDArray[np.int64]]:
    """One part of all hospitals together."""
    found = [Site(read_hospital(f), f.parent).load(study.digest()).parts[part] for f in files]
    labels: NDArray[np.int64] = torch.cat([r.whole_labels for r in found]).numpy()
    return torch.cat([r.whole for r in found]), labels


@torch.no_grad()
def log_odds(model: nn.Module, inputs: Tensor) -> NDArray[np.float64]:
    model.eval()
    outputs = model(inputs).double()
    odds: NDArray[np.float64] = (outputs[:, 1] - outputs[:, 0]).numpy()
    return odds


@dataclass(frozen=True)
class Simulated:
    """One run, as it lies on the disk."""

    study: Study
    result: Result
    out: Path

    def network(self) -> nn.Module:
        """The network with the weights of the model's file."""
        network = build(settled(self.study), seed=0)
        network.load_state_dict(load_file(self.out / "model.safetensors"))
        return network

    def model(self) -> NDArray[np.float64]:
        return flat.flatten(self.network()).astype(np.float64)

    def records(self, part: Part) -> tuple[Tensor, NDArray[np.int64]]:
        files = sorted((self.out / "hospitals").glob("*/hospital.toml"))
        return records(files, settled(self.study), part)


def simulated(folder: Path, study: Study, *, seed: int = 4) -> Simulated:
    data = folder / "records.csv"
    if not data.exists():
        write_table(data, range(COUNT))
    out = folder / f"run-{len(list(folder.iterdir()))}"
    options = Options(out=out, data=data, seed=seed, workers=1, baselines=False)
    result = simulate(study, options, listener=lambda _: None, say=lambda _: None)
    return Simulated(study, result, out)


TERMS: list[dict[str, Any]] = [{}, {"clip": 2.0, "max_records": 20}]


@pytest.fixture(params=TERMS, ids=["coarse", "fine"], scope="module")
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Simulated, Simulated]:
    """The same study and seed, secure and in the clear; by its defaults, and as fine as it can."""
    folder, terms = tmp_path_factory.mktemp("both"), request.param
    secure = simulated(folder, study_with(**terms))
    return secure, simulated(folder, study_with(**terms, secure=False))


def apart(secure: Simulated) -> float:
    """How far apart the final models may be, as the head of this file says."""
    terms, parameters = secure.study.aggregation, len(secure.model())
    inputs, _ = secure.records("train")
    longest = float(inputs.square().sum(dim=1).max()) + 1
    assert longest / 2 * RATE <= 2, "the learning rate is too large for the bound"
    room = (2**31 - 1) // HOSPITALS
    step = HOSPITALS * terms.largest_weight * terms.clip / room / len(inputs)
    return ROUNDS * math.sqrt(parameters) * step + FLOAT


def test_the_model_files_are_no_further_apart_than_rounding_brings_them(
    both: tuple[Simulated, Simulated],
) -> None:
    secure, clear = both
    distance = float(np.linalg.norm(secure.model() - clear.model()))

    assert distance <= apart(secure)
    learnt = clear.model() - flat.flatten(build(settled(clear.study), seed=4))
    assert np.linalg.norm(learnt) > 100 * apart(secure)


def test_the_losses_are_no_further_apart_than_the_models_bring_them(
    both: tuple[Simulated, Simulated],
) -> None:
    """Cross-entropy changes by at most sqrt(2) |x| times as much as the model does."""
    secure, clear = (run.result for run in both)
    pairs: list[tuple[Part, Metrics | None, Metrics | None]] = [
        ("validation", secure.validation, clear.validation),
        ("test", secure.metrics.federated, clear.metrics.federated),
    ]
    for part, ours, theirs in pairs:
        inputs, _ = both[0].records(part)
        longest = math.sqrt(float(inputs.square().sum(dim=1).max()) + 1)
        allowed = math.sqrt(2) * longest * apart(both[0]) + HOSPITALS * 2**-17 / len(inputs)
        assert ours is not None
        assert theirs is not None
        assert ours.loss == pytest.approx(theirs.loss, rel=0, abs=allowed)
        assert ours.records == theirs.records == len(inputs)


def test_whatever_is_counted_is_equal_where_no_record_is_on_an_edge(
    both: tuple[Simulated, Simulated],
) -> None:
    """A score decides by its bin; a bin is a 1024th of sigmoid(z / 4), and z moves that little."""
    secure, clear = both
    inputs, labels = clear.records("test")
    place = 1024 / (1 + np.exp(-log_odds(clear.network(), inputs) / 4))
    longest = math.sqrt(float(inputs.square().sum(dim=1).max()) + 1)
    moved = math.sqrt(2) * longest * apart(secure) * 1024 / 16  # sigmoid' is at most 1 / 4
    on_an_edge = np.abs(place - np.rint(place)) <= moved
    ours, theirs = secure.result.metrics.federated, clear.result.metrics.federated

    # One record in another bin changes its part of all pairs of a healthy and an ill one.
    counts = np.bincount(labels, minlength=2)
    allowed = sum(on_an_edge[labels == c].sum() / counts[c] for c in (0, 1))
    assert ours.auc == pytest.approx(theirs.auc, rel=0, abs=allowed + 1e-12)
    wrong = on_an_edge.sum() / len(labels)
    assert ours.accuracy == pytest.approx(theirs.accuracy, rel=0, abs=wrong + 1e-12)
    if secure.study.aggregation.clip == 2.0:
        assert not on_an_edge.any()  # so that the two lines above say: equal


def test_the_same_seed_repeats_a_secure_run_bit_for_bit(tmp_path: Path) -> None:
    """Masks come from the operating system, and leave nothing behind in the sum."""
    study = study_with()
    first, again, other = (simulated(tmp_path, study, seed=s) for s in (4, 4, 5))

    assert first.model().tobytes() == again.model().tobytes()
    assert first.result.metrics == again.result.metrics
    assert first.result.validation == again.result.validation
    assert first.model().tobytes() != other.model().tobytes()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads changes the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def federated(study: Study, data: Path, folder: Path, *, workers: int = 1) -> Outcome:
    """A run over fresh hospitals, which remember what they were asked before."""
    files = make_hospitals(study, data, folder, seed=1)
    with InProcessGrid(files, workers=workers, patience=0.0) as grid:
        return Federation(study, grid, run="run", seed=1).train_and_judge()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_workers_give_the_same_secure_run_bit_for_bit(table: Path, tmp_path: Path) -> None:
    """A hospital masks in one process and helps to unmask in another."""
    study = study_with()

    here = federated(study, table, tmp_path / "one", workers=1)
    there = federated(study, table, tmp_path / "two", workers=2)

    np.testing.assert_array_equal(here.model, there.model)
    assert (here.test, here.validation, here.curve) == (there.test, there.validation, there.curve)
    assert here.refusals == there.refusals == []


# --- AUC from summed histograms -------------------------------------------------------------------


def exact_auc(study: Study, outcome: Outcome, files: list[Path]) -> float:
    """Of the final model on everybody's test records, from every pair of scores."""
    model = build(study, seed=0)
    flat.load(model, outcome.model)
    inputs, labels = records(files, study, "test")
    assert outcome.test["records"] == len(labels)
    return float(roc_auc_score(labels, log_odds(model, inputs)))


def test_the_auc_from_secure_sums_is_the_exact_one_to_0_002(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    ill = rng.integers(0, 2, 1500)
    ages, sizes = rng.normal(size=(2, 1500)) + 0.8 * ill
    words = np.array(["benign", "malignant"])[ill]
    rows = [
        f"{n % 60},{a},{s},{w}" for n, (a, s, w) in enumerate(zip(ages, sizes, words, strict=True))
    ]
    data = tmp_path / "many.csv"
    data.write_text("\n".join(["number,age,size,diagnosis", *rows]) + "\n", "utf-8")
    study = settled(
        study_of(
            data={"parts": {"by": "random", "train": 0.3, "validation": 0.1, "test": 0.6}},
            aggregation={"strategy": "fedavg", "max_records": 200},
        )
    )

    outcome = federated(study, data, tmp_path / "hospitals")

    files = sorted((tmp_path / "hospitals").glob("*/hospital.toml"))
    exact = exact_auc(study, outcome, files)
    assert 0.6 < exact < 0.95
    assert outcome.test["auc"] == pytest.approx(exact, abs=0.002)


@pytest.mark.slow
@pytest.mark.skipif(not PNEUMONIA.exists(), reason="PneumoniaMNIST is not beside the repository")
@pytest.mark.usefixtures("one_thread")
def test_the_auc_from_secure_sums_is_the_exact_one_on_chest_x_rays(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "study": {"name": "chest-xray"},
        "task": {"kind": "binary", "classes": ["normal", "pneumonia"]},
        "model": {"name": "small_cnn", "channels": [4, 8]},
        "data": {"kind": "images", "shape": [1, 28, 28], "parts": {"by": "file"}},
        "training": {"rounds": 2, "local_steps": 15, "batch_size": 64, "learning_rate": 0.05},
        "aggregation": {"strategy": "fedavg", "clip": 5.0, "max_records": 4000},
        "participation": {"hospitals": 4, "min_hospitals": 3},
    }
    study = settled(parse_study(values))

    outcome = federated(study, PNEUMONIA, tmp_path / "hospitals")

    files = sorted((tmp_path / "hospitals").glob("*/hospital.toml"))
    exact = exact_auc(study, outcome, files)
    assert outcome.test["records"] == 624
    assert exact > 0.7
    assert outcome.test["auc"] == pytest.approx(exact, abs=0.002)
