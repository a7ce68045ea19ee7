"""A hospital's whole service at a real SuperLink: what left is in its log, and its desk knows."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fedward.client.control import ControlClient, socket_of
from fedward.client.hospital import read_hospital, write_hospital
from fedward.privacy.audit_log import verify
from fedward.privacy.identity import Identity
from fedward.study.messages import Contribution
from tests.deployment.conftest import Open, answer_of, asked, quick_study, training
from tests.superlink_ward import ServerSide, Ward, until

pytestmark = pytest.mark.slow
COMMAND = Path(sys.executable).with_name("fedward")


def test_service(ward: Ward, server: ServerSide, open_hospital: Open) -> None:
    hospital = open_hospital(ward)
    real = read_hospital(hospital.file).model_copy(update={"simulation": None})
    write_hospital(real, hospital.file)
    identity = Identity.generate()
    identity.save(hospital.folder / "identity.pem")
    node = ward.register(hospital.key)
    study = hospital.approve(quick_study())

    with subprocess.Popen(
        [COMMAND, "hospital", "start", "--json-log", "--hospital", hospital.file],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(socket_of(hospital.file).exists, seconds=60)
        with ControlClient(hospital.file) as client:
            until(client.healthy, seconds=60)
            events = client.watch()
            got = answer_of(asked(server, node, training(study)), study)
            assert isinstance(got, Contribution), got
            until(lambda: client.status().answered == 1)
            status = client.status()
            client.stop()
            kinds = [event.kind for event in events if event.kind not in {"idle", "connected"}]
        _, log = process.communicate(timeout=60)

    assert process.returncode == 0, log
    assert kinds == ["asked", "leaving", "answered", "stopped"]
    assert (status.kind, status.run, status.round) == ("train", "run-1", 1)
    began, came, left = (line.entry for line in verify(hospital.log, identity.public, own=True))
    assert (began.kind, came.direction, left.direction) == ("began", "in", "out")
    assert came.model == hashlib.sha256(training(study).model.tobytes()).hexdigest()
    assert (left.study, left.run, left.round) == (study.digest(), "run-1", 1)
    assert (came.size, left.size) == (status.bytes_in, status.bytes_out)
    assert (left.refused, left.epsilon) == ("", None)
    assert len(left.sha256) == 64
