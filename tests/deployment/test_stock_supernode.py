"""Flower's own SuperNode, over TLS with node authentication, answers as our daemon does: slower.

It fetches the app bundle from the SuperLink and runs what that names: here, installed code.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedward.client.hospital import read_hospital, write_hospital
from fedward.client.site import Site
from fedward.study.messages import Contribution, Refusal
from fedward.study.study import Study
from tests.deployment.conftest import Hospital, Open, answer_of, asked, training
from tests.secure_sites import study_of
from tests.superlink_ward import BIN, ServerSide, Ward, free_port, until

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
        key = hospital.folder / "transport.openssh"
        words: list[str | Path] = [BIN / "fedward", "hospital", "transport", "--openssh", key]
        subprocess.run([*words, "--hospital", hospital.file], check=True)
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        words = [BIN / "flower-supernode", "--superlink", ward.address]
        words += ["--root-certificates", hospital.folder / "ca.pem"]
        words += ["--auth-supernode-private-key", key, "--port", str(free_port())]
        words += ["--node-config", f'hospital="{hospital.file}"']
        environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(tmp_path / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        with (hospital.folder / "supernode.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    words, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

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
