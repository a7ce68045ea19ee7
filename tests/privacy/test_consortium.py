"""The coordinator's folder: who is a member is what its newest signed roster says."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.privacy import consortium as consortium_module
from fedward.privacy.certificates import check_server, request_certificate
from fedward.privacy.consortium import Consortium
from fedward.privacy.enrolment import read_answer, sign_request
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadCertificate, BadRequest, BadSignature
from fedward.privacy.roster import Roster, read_roster, sign_roster
from fedward.privacy.signed_study import read_signed_study
from fedward.privacy.transport import TransportKey
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study

ADDRESS = "fedward.example.org:9443"
NORTH, SOUTH = Identity.generate(), Identity.generate()
NORTH_T, SOUTH_T = TransportKey.generate(), TransportKey.generate()
NORTH_ASKS = sign_request("north", NORTH, NORTH_T)
SOUTH_ASKS = sign_request("south", SOUTH, SOUTH_T)


@pytest.fixture
def founded(tmp_path: Path) -> Consortium:
    return Consortium.found(tmp_path / "c", ADDRESS)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- Founding -------------------------------------------------------------------------------------


def test_a_new_consortium_has_nobody_and_version_1(founded: Consortium) -> None:
    assert founded.roster == Roster(1, {})
    assert founded.address == ADDRESS


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_private_keys_are_their_owner_s_alone(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        Consortium.found(tmp_path / "c", ADDRESS).admit(NORTH_ASKS)
    finally:
        os.umask(before)

    for path in (tmp_path / "c").rglob("*"):
        if b"PRIVATE" in (path.read_bytes() if path.is_file() else b""):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) & 0o077 == 0


def test_a_consortium_is_opened_again(founded: Consortium, tmp_path: Path) -> None:
    again = Consortium(tmp_path / "c")

    assert again.coordinator == founded.coordinator
    assert again.roster == founded.roster


def test_nothing_is_ever_founded_over_something(founded: Consortium, tmp_path: Path) -> None:
    before = files(tmp_path)

    with pytest.raises(DataError, match="never written over"):
        Consortium.found(tmp_path / "c", ADDRESS)
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == ["c"]
    assert founded.roster.version == 1


def test_a_founding_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(consortium_module, "write_public", full)
    with pytest.raises(DataError, match="No space left"):
        Consortium.found(tmp_path / "c", ADDRESS)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("address", ["", "example.org", "https://example.org:1"])
def test_an_address_that_cannot_be_one_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="host:port"):
        Consortium.found(tmp_path / "c", address)


# --- Admitting ------------------------------------------------------------------------------------


def test_a_member_is_in_the_next_roster_and_gets_all_it_needs(founded: Consortium) -> None:
    answer = read_answer(founded.admit(NORTH_ASKS), founded.coordinator)

    expected = Roster(2, {"north": NORTH.public}, {"north": NORTH_T.public})
    assert answer.read_roster() == founded.roster == expected
    assert answer.address == ADDRESS
    assert answer.certificate == b""


def test_every_change_raises_the_version_by_one_and_keeps_the_others(founded: Consortium) -> None:
    founded.admit(NORTH_ASKS)
    founded.admit(SOUTH_ASKS)
    assert founded.roster.version == 3
    assert set(founded.roster.members) == {"north", "south"}

    founded.expel("north")
    assert founded.roster == Roster(4, {"south": SOUTH.public}, {"south": SOUTH_T.public})


def test_the_same_request_again_gets_the_newest_roster(founded: Consortium) -> None:
    founded.admit(NORTH_ASKS)
    founded.admit(SOUTH_ASKS)
    answer = read_answer(founded.admit(NORTH_ASKS), founded.coordinator)

    assert answer.read_roster().version == founded.roster.version == 3


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (sign_request("north", SOUTH, SOUTH_T), "a member already, with other keys"),
        (sign_request("north", NORTH, SOUTH_T), "a member already, with other keys"),
        (sign_request("north", SOUTH, NORTH_T), "a member already, with other keys"),
        (sign_request("other", NORTH, SOUTH_T), "identity of 'other' is that of the member"),
        (sign_request("other", SOUTH, NORTH_T), "transport key of 'other' is that of the member"),
    ],
    ids=["both keys", "transport", "identity", "taken identity", "taken transport"],
)
def test_a_member_is_never_replaced_in_passing(
    request_: bytes, why: str, founded: Consortium, tmp_path: Path
) -> None:
    founded.admit(NORTH_ASKS)
    before = files(tmp_path)

    with pytest.raises(DataError, match=why):
        founded.admit(request_)
    assert files(tmp_path) == before


def test_after_expulsion_a_name_may_come_with_other_keys(founded: Consortium) -> None:
    founded.admit(NORTH_ASKS)
    founded.expel("north")
    founded.admit(sign_request("north", SOUTH, SOUTH_T))

    assert founded.roster == Roster(4, {"north": SOUTH.public}, {"north": SOUTH_T.public})


def test_what_is_no_request_or_not_signed_changes_nothing(
    founded: Consortium, tmp_path: Path
) -> None:
    before = files(tmp_path)
    forged = NORTH_ASKS.replace(b'"north"', b'"nortt"')

    with pytest.raises(BadSignature):
        founded.admit(forged)
    with pytest.raises(BadRequest):
        founded.admit(b"{}")
    assert files(tmp_path) == before


def test_requests_and_answers_are_kept_whatever_a_hospital_is_called(
    founded: Consortium, tmp_path: Path
) -> None:
    asked = sign_request("../../etc/passwd", NORTH, NORTH_T)
    answer = founded.admit(asked)

    kept = files(tmp_path / "c")
    assert [v for k, v in kept.items() if k.startswith("requests/")] == [asked]
    assert [v for k, v in kept.items() if k.startswith("answers/")] == [answer]
    assert os.listdir(tmp_path) == ["c"]


def test_nobody_is_expelled_who_is_no_member(founded: Consortium, tmp_path: Path) -> None:
    founded.admit(NORTH_ASKS)
    before = files(tmp_path / "c")

    with pytest.raises(DataError, match="did you mean 'north'"):
        founded.expel("nort")
    assert files(tmp_path / "c") == before


# --- Damage, crashes, two at once -----------------------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "cut", "forged"])
def test_a_damaged_roster_is_never_made_anew(
    damage: str, founded: Consortium, tmp_path: Path
) -> None:
    founded.admit(NORTH_ASKS)
    path = tmp_path / "c" / "roster.json"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        os.truncate(path, 100)
    else:
        path.write_bytes(sign_roster(Roster(9, {}), Identity.generate()))
    before = files(tmp_path / "c")

    for change in (lambda: founded.admit(SOUTH_ASKS), lambda: founded.expel("north")):
        with pytest.raises(DataError):
            change()
    assert files(tmp_path / "c") == before


def test_others_must_not_read_the_coordinator_s_key(founded: Consortium, tmp_path: Path) -> None:
    (tmp_path / "c" / "coordinator.pem").chmod(0o644)

    with pytest.raises(DataError, match="mode 644"):
        Consortium(tmp_path / "c")
    assert founded.roster.version == 1


@pytest.mark.parametrize("text", ["", "address = 7", 'address = "x"', "more = 1", "?"])
def test_faulty_settings_are_a_clear_error(text: str, founded: Consortium, tmp_path: Path) -> None:
    (tmp_path / "c" / "consortium.toml").write_text(text, "utf-8")

    with pytest.raises(DataError, match=r"consortium\.toml"):
        Consortium(tmp_path / "c")
    assert founded.address == ADDRESS


def start(code: str, *words: str | Path) -> subprocess.Popen[str]:
    head = "import sys; from pathlib import Path\nfrom fedward.privacy.consortium import *\n"
    head += "from fedward.privacy.enrolment import sign_request\n"
    head += "from fedward.privacy.identity import Identity\n"
    head += "from fedward.privacy.transport import TransportKey\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
    )


ADMIT_MANY = """
opened = Consortium(Path(sys.argv[1]))
for i in range(int(sys.argv[3])):
    keys = Identity.generate(), TransportKey.generate()
    opened.admit(sign_request(f"{sys.argv[2]}-{i}", *keys))
    print(i, flush=True)
"""


def test_processes_at_once_lose_no_member_and_give_no_version_twice(
    founded: Consortium, tmp_path: Path
) -> None:
    children = [start(ADMIT_MANY, tmp_path / "c", name, "8") for name in ("a", "b", "c")]
    for child in children:
        child.communicate(timeout=100)

    assert [child.returncode for child in children] == [0, 0, 0]
    assert founded.roster.version == 1 + 24
    assert len(founded.roster.members) == 24
    rosters = [
        read_answer(document, founded.coordinator).roster
        for name, document in files(tmp_path / "c").items()
        if name.startswith("answers/")
    ]
    versions = [read_roster(roster, founded.coordinator).version for roster in rosters]
    assert sorted(versions) == list(range(2, 26))


@pytest.mark.slow
def test_killed_at_any_moment_the_roster_is_whole_and_the_next_change_works(
    founded: Consortium, tmp_path: Path
) -> None:
    for attempt in range(8):
        child = start(ADMIT_MANY, tmp_path / "c", f"k{attempt}", "1000")
        assert child.stdout is not None
        child.stdout.readline()
        before = founded.roster.version
        time.sleep(0.005 * attempt)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=20)

        assert founded.roster.version >= before
        assert len(founded.roster.members) == founded.roster.version - 1

    version = founded.roster.version
    founded.admit(NORTH_ASKS)
    assert founded.roster.version == version + 1


def test_a_crash_between_roster_and_answer_is_mended_by_asking_again(
    founded: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Consortium, "answer", lambda _: pytest.fail("crashed"))
        with pytest.raises(pytest.fail.Exception):
            founded.admit(NORTH_ASKS)
    answer = read_answer(Consortium(tmp_path / "c").admit(NORTH_ASKS), founded.coordinator)

    assert answer.read_roster() == Roster(2, {"north": NORTH.public}, {"north": NORTH_T.public})


# --- Signing and certifying -----------------------------------------------------------------------


def test_a_study_is_signed_by_the_coordinator(
    founded: Consortium, study_with: Callable[[Mapping[str, object]], Study]
) -> None:
    study = study_with({})

    again = read_signed_study(founded.sign(study), founded.coordinator)
    assert again.digest() == study.digest()


def test_an_aggregator_gets_a_certificate_and_an_answer(
    founded: Consortium, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = founded.certify(request_certificate(key, ["fedward.example.org", "10.0.0.7"]))
    answer = read_answer(founded.answer(chain), founded.coordinator)

    assert answer.certificate == chain
    assert [p.read_bytes() for p in (tmp_path / "c" / "certificates").iterdir()] == [chain]
    for host in ("fedward.example.org", "10.0.0.7"):
        check_server(chain, ca=answer.ca, host=host, now=datetime.now(UTC))


def test_an_aggregator_that_hospitals_would_not_find_is_not_certified(founded: Consortium) -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    with pytest.raises(BadCertificate, match=r"not for fedward\.example\.org"):
        founded.certify(request_certificate(key, ["example.org"]))


def test_the_authority_s_key_is_not_needed_for_members(founded: Consortium, tmp_path: Path) -> None:
    (tmp_path / "c" / "ca-key.pem").unlink()

    founded.admit(NORTH_ASKS)
    assert founded.roster.version == 2
