"""Flower's own SuperNode as a hospital starts it, in the place of the daemon."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from fedward.simulation.deployment import Part
from tests.superlink_ward import BIN, free_port


def write_openssh(hospital: Path) -> Path:
    """The hospital's transport key in the form that a stock SuperNode reads, by our command."""
    key = hospital.with_name("transport.openssh")
    words: list[str | Path] = [BIN / "fedward", "hospital", "transport", "--openssh", key]
    subprocess.run([*words, "--hospital", hospital], check=True)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    return key


def start_supernode(
    hospital: Path, address: str, key: Path, *, home: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start a stock SuperNode.

    Args:
        hospital: The hospital's file; beside it lies the authority's certificate.
        address: Of the SuperLink, or of the gate before it.
        key: From `write_openssh`.
        home: Flower's own folder.
        log: What it says.
    """
    words: list[str | Path] = [BIN / "flower-supernode", "--superlink", address]
    words += ["--root-certificates", hospital.with_name("ca.pem")]
    words += ["--auth-supernode-private-key", key, "--port", str(free_port())]
    words += ["--node-config", f'hospital="{hospital}"']
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    with log.open("ab") as said:
        return subprocess.Popen(
            words, env=environment, stdout=said, stderr=said, start_new_session=True
        )


@dataclass
class StockPart(Part):
    """A hospital of a deployment that runs a stock SuperNode.

    Attributes:
        hospital: Its file.
        address: Of the gate.
    """

    hospital: Path = field(default=Path())
    address: str = ""

    def start(self) -> None:
        if self.process is None:
            home = self.hospital.with_name("flower")
            key = write_openssh(self.hospital)
            self.process = start_supernode(
                self.hospital, self.address, key, home=home, log=self.log
            )
