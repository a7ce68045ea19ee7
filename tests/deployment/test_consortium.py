"""A consortium of real processes over TLS, from enrolment to a model that everybody can check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.privacy.contribution import Layout
from fedward.privacy.encoding import Encoding
from fedward.server.run_registry import RunFolder
from fedward.simulation.simulate import Options, simulate
from fedward.study.study import Study
from tests.deployment.at_work import ROUNDS, AtWork, at_work, table, three, until

pytestmark = pytest.mark.slow
FULL = {"local_epochs": 4, "batch_size": 1000}
"""Every step is over all records, so nothing is drawn."""


@pytest.fixture(scope="module")
def consortium() -> Iterator[AtWork]:
    with at_work(three("any")) as found:
        yield found


def test_a_private_study_ends_and_its_books_are_good(consortium: AtWork) -> None:
    study = three("private", private=True)
    run = consortium.train(study, "private-1")
    consortium.finished(run)

    rounds = consortium.events(run, "RoundFinished")
    assert [event["answered"] for event in rounds] == [3] * ROUNDS
    assert (run.folder / "model.safetensors").exists()
    for name in consortium.names:
        charged = [entry.charge.round for entry in consortium.charges(name)]
        assert charged == list(range(1, ROUNDS + 1))
        left = [line.entry for line in consortium.audited(name) if line.entry.direction == "out"]
        spent = [entry.epsilon for entry in left if entry.kind == "train"]
        assert len(spent) == ROUNDS
        assert all(e is not None and e > 0 for e in spent)
        assert spent == sorted(spent, key=lambda e: e or 0)
        assert not any(entry.refused for entry in left)

        file = consortium.file(name)
        other = consortium.state("B" if name == "A" else "A") / "audit.jsonl"
        said = consortium.fedward(
            *("hospital", "log", "verify", "--hospital", file, "--against", other)
        )
        assert said.count("each signed and in its place") == 2
        assert "no contradiction" in said
    assert "charges" in consortium.fedward("hospital", "budget", "verify", "--hospital", file)
    consortium.no_traceback()


def test_a_run_that_was_stopped_goes_on_at_the_next_round(consortium: AtWork) -> None:
    planned = 80  # the command that stops it takes as long as several rounds to start
    study = three("stopped", training={"rounds": planned})
    run = consortium.train(study, "stopped-1")
    hub = ("--aggregator", consortium.hub_file)
    until(lambda: len(consortium.events(run, "RoundFinished")) >= 2)

    consortium.fedward("aggregator", "stop", "stopped-1", *hub)
    until(lambda: run.record.state == "stopped")
    before = [event["round"] for event in consortium.events(run, "RoundFinished")]
    assert before == list(range(1, len(before) + 1))
    assert len(before) < planned
    consortium.fedward("aggregator", "resume", "stopped-1", *hub)
    consortium.finished(run)

    rounds = [event["round"] for event in consortium.events(run, "RoundFinished")]
    assert rounds == list(range(1, planned + 1))  # none twice, none left out


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_the_model_is_the_simulation_s(consortium: AtWork, tmp_path: Path, *, secure: bool) -> None:
    """Nobody dropped, nothing was drawn: what is left is the rounding of secure sums."""
    study = three("full", training=FULL, aggregation={"secure": secure})
    run = consortium.train(study, "secure" if secure else "plain", seed=3)
    consortium.finished(run)

    expected = simulated(study, tmp_path)
    deployed = load_file(run.folder / "model.safetensors")
    assert deployed.keys() == expected.keys()
    bound = rounding(study, run) if secure else 1e-6
    assert bound < 1e-3
    for name, values in expected.items():
        np.testing.assert_allclose(deployed[name], values, rtol=0, atol=bound)
    assert any(np.ptp(values) > 0.1 for values in expected.values())
    rounds = consortium.events(run, "RoundFinished")
    assert [event["answered"] for event in rounds] == [3] * ROUNDS


def simulated(study: Study, folder: Path) -> dict[str, np.ndarray]:
    """The model that the simulation trains on the same data, from the same seed."""
    options = Options(folder / "run", table(folder), seed=3, baselines=False, workers=1)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    return load_file(folder / "run" / "model.safetensors")


def rounding(study: Study, run: RunFolder) -> float:
    """How far apart two runs of secure sums may be, that differ in how they round only.

    Each of three hospitals errs by the bound in weight times update, on either side; the mean
    divides by the weights' sum, at least one record each. Training that follows a model that is a
    little off ends a little further off: less than twice as far in these few steps.
    """
    size = sum(v.size for v in load_file(run.folder / "model.safetensors").values())
    code = Encoding(Layout(size, 0, ()), study.aggregation, hospitals=3)
    records = 60  # fewer than train at the three hospitals together
    return 2 * 2 * study.training.rounds * 3 * code.error_bound / records
