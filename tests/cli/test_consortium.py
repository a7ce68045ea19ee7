"""A consortium as its people run it: files go to and fro, fingerprints go by telephone."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.client.hospital import read_hospital
from fedward.client.membership import read_membership
from fedward.models.registry import read_settled
from fedward.privacy.certificates import request_certificate
from fedward.privacy.consortium import Consortium
from fedward.privacy.enrolment import read_answer
from fedward.privacy.signed_study import read_signed_study
from tests.cli.conftest import COMMAND, Fedward, Said, write_study

pytestmark = pytest.mark.slow  # every one is several processes

FINGERPRINT = re.compile(r"\b[0-9a-f]{4}(?:-[0-9a-f]{4}){7}\b")
WRONG = "0000-0000-0000-0000-0000-0000-0000-0000"


def fingerprint(said: Said) -> str:
    """The last one that was shown."""
    assert said.code == 0, said.err
    return str(FINGERPRINT.findall(said.out)[-1])


def found(fedward: Fedward) -> str:
    """A consortium in this folder; its coordinator's fingerprint."""
    return fingerprint(fedward("consortium", "init", "--address", "localhost:9443"))


def ask(fedward: Fedward, name: str) -> tuple[Path, str]:
    """A hospital's request, and the fingerprint that it shows."""
    file = Path(name, "hospital.toml")
    assert fedward("hospital", "init", "--name", name, "--hospital", file).code == 0
    said = fedward("hospital", "enroll", "--hospital", file)
    return Path(name, "enrolment-request.json"), fingerprint(said)


def test_a_hospital_becomes_a_member(fedward: Fedward, tmp_path: Path) -> None:
    coordinator = found(fedward)
    request, shown = ask(fedward, "north")

    admitted = fedward("consortium", "admit", request, "--fingerprint", shown.upper())
    assert admitted.code == 0, admitted.err
    assert shown in admitted.out
    assert "version 2" in admitted.out
    words = ("hospital", "enroll", "--hospital", "north/hospital.toml")
    enrolled = fedward(*words, "--answer", "north.answer.json", "--coordinator", coordinator)

    assert (enrolled.code, enrolled.err) == (0, "")
    file = read_hospital(tmp_path / "north" / "hospital.toml")
    member = read_membership(file, tmp_path / "north")
    assert member.roster == Consortium(tmp_path / "consortium").roster


def test_init_and_enroll_show_the_fingerprint_that_the_coordinator_sees(fedward: Fedward) -> None:
    found(fedward)
    made = fedward("hospital", "init", "--name", "north")
    asked = fedward("hospital", "enroll")
    seen = fedward("consortium", "admit", "enrolment-request.json")

    assert fingerprint(made) == fingerprint(asked)
    assert FINGERPRINT.findall(seen.out) == [fingerprint(made)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "was not compared"),
        (("--fingerprint", WRONG), "not the fingerprint"),
        (("--fingerprint", ""), "not the fingerprint"),
    ],
    ids=["none", "wrong", "empty"],
)
def test_nobody_is_admitted_without_the_right_fingerprint(
    fedward: Fedward, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    found(fedward)
    request, _ = ask(fedward, "north")
    said = fedward("consortium", "admit", request, *options)

    assert said.code == 2
    assert why in said.err
    assert len(said.err.splitlines()) == 1
    assert Consortium(tmp_path / "consortium").roster.version == 1
    assert not (tmp_path / "north.answer.json").exists()


def test_a_hospital_joins_nobody_without_the_right_fingerprint(
    fedward: Fedward, tmp_path: Path
) -> None:
    found(fedward)
    request, shown = ask(fedward, "north")
    fedward("consortium", "admit", request, "--fingerprint", shown)
    words = ("hospital", "enroll", "--hospital", "north/hospital.toml")
    for options in ((), ("--coordinator", WRONG)):
        said = fedward(*words, "--answer", "north.answer.json", *options)
        assert said.code == 2
        assert "--coordinator" in said.err
    assert read_hospital(tmp_path / "north" / "hospital.toml").consortium is None


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_a_person_at_a_terminal_may_say_yes(
    typed: str, code: int, fedward: Fedward, tmp_path: Path
) -> None:
    found(fedward)
    request, shown = ask(fedward, "north")
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [COMMAND, "consortium", "admit", request],
            cwd=tmp_path,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            os.write(ours, typed.encode())
            out, err = child.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)

    assert child.returncode == code, err
    assert shown in out
    assert Consortium(tmp_path / "consortium").roster.version == (2 if code == 0 else 1)


def test_an_exchanged_request_has_another_fingerprint(fedward: Fedward) -> None:
    found(fedward)
    _, shown = ask(fedward, "north")
    mallory, _ = ask(fedward, "mallory")

    said = fedward("consortium", "admit", mallory, "--fingerprint", shown)
    assert said.code == 2
    assert "exchanged" in said.err


def test_a_file_that_is_no_request_names_itself(fedward: Fedward, tmp_path: Path) -> None:
    found(fedward)
    (tmp_path / "note.txt").write_text("hello")

    line = fedward("consortium", "admit", "note.txt", "--fingerprint", WRONG).only_error()
    assert "note.txt: not an enrolment request" in line
    line = fedward("consortium", "certify", "note.txt", "--fingerprint", WRONG).only_error()
    assert "note.txt: not a request for a server's certificate" in line
    line = fedward("consortium", "admit", "absent.json").only_error()
    assert "absent.json" in line


def test_an_expelled_member_is_gone_and_the_others_stay(fedward: Fedward, tmp_path: Path) -> None:
    found(fedward)
    for name in ("north", "south"):
        request, shown = ask(fedward, name)
        fedward("consortium", "admit", request, "--fingerprint", shown)
    assert "north" in fedward("consortium", "expel", "nort").only_error()
    said = fedward("consortium", "expel", "north")

    assert (said.code, said.err) == (0, "")
    assert "version 4" in said.out
    roster = Consortium(tmp_path / "consortium").roster
    assert (roster.version, list(roster.members)) == (4, ["south"])
    shown = fedward("consortium", "roster").out
    assert "version 4; members: 1" in shown
    assert "south" in shown
    assert len(FINGERPRINT.findall(shown)) == 2


def test_a_study_is_signed_with_every_setting_of_its_model(
    fedward: Fedward, tmp_path: Path
) -> None:
    found(fedward)
    study = write_study(tmp_path)
    said = fedward("consortium", "sign", study)

    assert (said.code, said.err) == (0, "")
    signed = (tmp_path / "tiny.signed.json").read_bytes()
    again = read_signed_study(signed, Consortium(tmp_path / "consortium").coordinator)
    assert again.digest() == read_settled(study).digest()
    assert again.digest() in said.out


def test_a_faulty_study_is_not_signed(fedward: Fedward, tmp_path: Path) -> None:
    found(fedward)
    study = write_study(tmp_path, model={"name": "mlp", "hiden": [4]})

    assert "model.hiden" in fedward("consortium", "sign", study).only_error()
    assert not (tmp_path / "tiny.signed.json").exists()


def test_an_aggregator_is_certified_with_its_fingerprint_only(
    fedward: Fedward, tmp_path: Path
) -> None:
    found(fedward)
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "a.csr").write_bytes(request_certificate(key, ["localhost"]))
    refused = fedward("consortium", "certify", "a.csr")
    assert refused.code == 2
    (shown,) = FINGERPRINT.findall(refused.out)
    said = fedward("consortium", "certify", "a.csr", "--fingerprint", shown)

    assert (said.code, said.err) == (0, "")
    answer = read_answer(
        (tmp_path / "localhost.answer.json").read_bytes(),
        Consortium(tmp_path / "consortium").coordinator,
    )
    assert (tmp_path / "localhost.answer.chain.pem").read_bytes() == answer.certificate


def test_without_a_consortium_every_command_says_so(fedward: Fedward, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    for words in (("roster",), ("expel", "north"), ("sign", study), ("admit", study)):
        assert "no such consortium file" in fedward("consortium", *words).only_error()


def test_nothing_is_founded_twice(fedward: Fedward) -> None:
    found(fedward)

    line = fedward("consortium", "init", "--address", "localhost:9443").only_error()
    assert "never written over" in line
