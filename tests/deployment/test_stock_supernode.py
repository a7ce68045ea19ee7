"""Flower's own SuperNode, over TLS with node authentication, answers as our daemon does: slower.

It fetches the app bundle from the SuperLink and runs what that names: here, installed code.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.client.hospital import read_hospital, write_hospital
from fedward.client.membership import consortium_of
from fedward.client.site import Site
from fedward.study.messages import Contribution, Refusal
from fedward.study.study import Study
from tests.deployment.at_work import AtWork, at_work, three
from tests.deployment.conftest import Hospital, Open, answer_of, asked, training
from tests.deployment.stock_node import StockPart, start_supernode, write_openssh
from tests.deployment.test_consortium import FULL, rounding, simulated
from tests.secure_sites import study_of
from tests.superlink_ward import ServerSide, Ward, until

pytestmark = pytest.mark.slow
Start = Callable[[Hospital], None]


def whole_batches() -> Study:
    """A study whose result does not hang on the order of records, which no seed fixes here."""
    return study_of(
        aggregation={"secure": False}, training={"batch_size": "all", "local_epochs": 5}
    )


@pytest.fixture
def real(ward: Ward, open_hospital: Open) -> Hospital:
    """A hospital without a seed, as real ones are."""
    hospital = open_hospital(ward)
    found = read_hospital(hospital.file)
    write_hospital(found.model_copy(update={"simulation": None}), hospital.file)
    return hospital


@pytest.fixture
def start(ward: Ward, tmp_path: Path) -> Iterator[Start]:
    """Start a stock SuperNode for a hospital, with the key that our command writes."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(hospital: Hospital) -> None:
        key = write_openssh(hospital.file)
        log, home = hospital.folder / "supernode.log", tmp_path / "flower"
        processes.append(start_supernode(hospital.file, ward.address, key, home=home, log=log))

    yield start
    for process in processes:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_stock_supernode_answers_as_the_site_answers(
    ward: Ward, server: ServerSide, real: Hospital, start: Start
) -> None:
    study = real.approve(whole_batches())
    node = ward.register(real.key)
    start(real)
    log = real.folder / "supernode.log"
    until(lambda: node in ward.online(), seconds=60, what=log.read_text)

    since = time.monotonic()
    got = answer_of(asked(server, node, training(study), seconds=120), study)
    passed = time.monotonic() - since

    assert isinstance(got, Contribution), (got, log.read_text("utf-8"))
    expected = Site(read_hospital(real.file), real.folder).answer(lambda: training(study))
    assert isinstance(expected, Contribution)
    np.testing.assert_allclose(got.vector, expected.vector, rtol=1e-4, atol=1e-6)
    assert passed > 1  # a new process for each message
    assert "GetFab" in ward.log  # the bundle of the server's: our daemon never asks for it
    assert not real.log.exists()  # and nobody wrote down what left


def test_a_study_that_is_not_approved_is_refused_there_too(
    ward: Ward, server: ServerSide, real: Hospital, start: Start
) -> None:
    node = ward.register(real.key)
    start(real)
    until(
        lambda: node in ward.online(),
        seconds=60,
        what=(real.folder / "supernode.log").read_text,
    )

    study = whole_batches()
    refusal = answer_of(asked(server, node, training(study), seconds=120), study)

    assert isinstance(refusal, Refusal), refusal
    assert "not approved" in refusal.what


def test_it_takes_part_in_a_secure_study_through_the_gate(tmp_path: Path) -> None:
    """Two daemons and a stock SuperNode: TLS, node keys, masks; the model is the simulation's."""

    def prepare(made: AtWork) -> None:
        file = made.file("C")
        address = consortium_of(read_hospital(file)).address
        assert address is not None
        log = file.with_name("log.txt")
        made.deployment.parts["C"] = StockPart(("",), log, hospital=file, address=address)

    patient = {"hospitals": 3, "deadline_seconds": 120.0, "wait_seconds": 240.0}
    study = three("stock", training={**FULL, "rounds": 2}, participation=patient)
    with at_work(study, prepare=prepare) as consortium:
        run = consortium.train(study, "stock", seed=3)
        consortium.finished(run, seconds=420)

        rounds = consortium.events(run, "RoundFinished")
        assert [event["answered"] for event in rounds] == [3, 3]
        assert "Sending: train message" in consortium.said("C")  # as Flower's SuperNode says it
        assert not (consortium.state("C") / "audit.jsonl").exists()
        assert (consortium.state("A") / "audit.jsonl").exists()
        expected, bound = simulated(study, tmp_path), rounding(study, run)
        found = load_file(run.folder / "model.safetensors")
        assert bound < 1e-3
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=bound)
        assert any(np.ptp(values) > 0.1 for values in expected.values())
