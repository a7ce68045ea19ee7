"""A hospital joins only the consortium whose fingerprint it compared, and keeps its own file."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from fedward.client.enrolment import accept_answer, prepare, request_enrolment
from fedward.client.hospital import read_hospital
from fedward.client.membership import read_membership
from fedward.privacy.consortium import Consortium
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadCertificate, BadRequest, BadSignature
from fedward.privacy.transport import TransportKey
from fedward.study.errors import DataError, FedwardError, HospitalError, OptionError

ADDRESS = "fedward.example.org:9443"


class Parties(NamedTuple):
    """A consortium, and a hospital that was prepared and has asked to be a member."""

    consortium: Consortium
    hospital: Path

    def request(self) -> bytes:
        return request_enrolment(self.hospital)[0]

    def accept(self, answer: bytes) -> None:
        accept_answer(self.hospital, answer, self.consortium.coordinator)


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    hospital = tmp_path / "north" / "hospital.toml"
    prepare(hospital, "Klinikum Süd")
    return Parties(Consortium.found(tmp_path / "c", ADDRESS), hospital)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Preparing ------------------------------------------------------------------------------------


def test_a_new_hospital_has_a_file_and_two_private_keys(parties: Parties) -> None:
    folder = parties.hospital.parent

    assert set(files(folder)) == {"hospital.toml", "identity.pem", "transport.pem"}
    assert read_hospital(parties.hospital).name == "Klinikum Süd"
    for key in ("identity.pem", "transport.pem"):
        assert stat.S_IMODE((folder / key).stat().st_mode) == 0o600


def test_a_new_hospital_s_budget_is_bounded(parties: Parties) -> None:
    assert read_hospital(parties.hospital).limits.epsilon is not None


@pytest.mark.parametrize("name", ['a "quoted" \\ name', "ü", "a = 7 # x", "病院", "{name}"])
def test_any_name_is_written_as_it_is(name: str, tmp_path: Path) -> None:
    prepare(tmp_path / "h.toml", name)

    assert read_hospital(tmp_path / "h.toml").name == name


def test_preparing_again_changes_nothing_and_makes_what_is_missing(parties: Parties) -> None:
    folder = parties.hospital.parent
    before = files(folder)

    assert prepare(parties.hospital) == []
    assert files(folder) == before

    (folder / "transport.pem").unlink()
    assert prepare(parties.hospital, "Klinikum Süd") == [folder / "transport.pem"]
    assert files(folder)["identity.pem"] == before["identity.pem"]


@pytest.mark.parametrize("name", [None, "", " a", "a\n", "x" * 101])
def test_a_hospital_needs_a_name_that_can_be_one(name: str | None, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--name"):
        prepare(tmp_path / "new" / "hospital.toml", name)
    assert os.listdir(tmp_path) == []


def test_a_hospital_is_not_renamed_in_passing(parties: Parties) -> None:
    with pytest.raises(OptionError, match="called 'Klinikum Süd' already"):
        prepare(parties.hospital, "north")


def test_without_keys_there_is_no_request(parties: Parties) -> None:
    (parties.hospital.parent / "transport.pem").unlink()

    with pytest.raises(DataError, match="fedward hospital init"):
        parties.request()


# --- Becoming a member ----------------------------------------------------------------------------


def test_request_and_answer_make_a_member(parties: Parties) -> None:
    parties.accept(parties.consortium.admit(parties.request()))

    file = read_hospital(parties.hospital)
    assert file.consortium is not None
    assert file.consortium.address == ADDRESS
    folder = parties.hospital.parent
    member = read_membership(file, folder)
    assert member.roster == parties.consortium.roster
    own = TransportKey.load(folder / str(file.consortium.transport))
    assert member.roster.transports[member.name] == own.public
    assert (folder / str(file.consortium.ca)).read_bytes().startswith(b"-----BEGIN CERT")


def test_only_the_consortium_s_table_is_written(parties: Parties) -> None:
    before = parties.hospital.read_text("utf-8")
    parties.accept(parties.consortium.admit(parties.request()))

    after = parties.hospital.read_text("utf-8")
    assert after.startswith(before)
    assert set(tomllib.loads(after)) - set(tomllib.loads(before)) == {"consortium"}


def test_a_later_answer_brings_the_newer_roster_and_address_and_keeps_every_other_line(
    parties: Parties,
) -> None:
    parties.accept(parties.consortium.admit(parties.request()))
    text = parties.hospital.read_text("utf-8")
    parties.hospital.write_text(
        text.replace('"roster.json"', '"members.json"').replace("[consortium]", "[consortium] # us")
        + "\n# a note\n[simulation] # another\nseed = 7\n",
        "utf-8",
    )
    settings = parties.hospital.parents[1] / "c" / "consortium.toml"
    settings.write_text('address = "new.example.org:1"', "utf-8")
    other = sign(parties.hospital.parents[1] / "south" / "hospital.toml")
    moved = Consortium(parties.hospital.parents[1] / "c")
    moved.admit(other)
    parties.accept(moved.admit(parties.request()))

    file = read_hospital(parties.hospital)
    assert file.consortium is not None
    assert (file.consortium.address, file.consortium.roster) == (
        "new.example.org:1",
        "members.json",
    )
    assert file.simulation is not None
    assert read_membership(file, parties.hospital.parent).roster == moved.roster
    after = parties.hospital.read_text("utf-8")
    assert after.splitlines()[:16] == text.splitlines()[:16]
    assert after.endswith("[simulation] # another\nseed = 7\n")


def sign(hospital: Path) -> bytes:
    prepare(hospital, "south")
    return request_enrolment(hospital)[0]


def test_a_roster_alone_leaves_the_file_untouched(parties: Parties) -> None:
    parties.accept(parties.consortium.admit(parties.request()))
    before = parties.hospital.stat()
    parties.consortium.admit(sign(parties.hospital.parents[1] / "south" / "hospital.toml"))
    parties.accept(parties.consortium.answer())

    assert parties.hospital.stat() == before
    file = read_hospital(parties.hospital)
    assert read_membership(file, parties.hospital.parent).roster.version == 3


BY_HAND = {
    "table": ('[consortium]\ncoordinator = "{hex}"\n', True),
    "CRLF": ("[consortium]   # ours\r\ncoordinator = '{hex}'\r\n", True),
    "dotted": ('consortium.coordinator = "{hex}"\n', False),
    "inline": ('consortium = {{ coordinator = "{hex}" }}\n', False),
    "quoted": ('["consortium"]\ncoordinator = "{hex}"\n', False),
}


def by_hand(parties: Parties, text: str) -> bytes:
    """Give the hospital a file that a person wrote; the answer to its request."""
    own = text.format(hex=parties.consortium.coordinator.hex())
    data = "[data]\nformat = 'bundled'\nname = 'breast-cancer'\n"
    parties.hospital.write_bytes(f"name = 'x'\n{own}{data}".encode())
    return parties.consortium.admit(parties.request())


@pytest.mark.parametrize("text", [text for text, works in BY_HAND.values() if works])
def test_a_table_that_a_person_wrote_is_exchanged(text: str, parties: Parties) -> None:
    parties.accept(by_hand(parties, text))

    file = read_hospital(parties.hospital)
    assert file.consortium is not None
    assert file.consortium.address == ADDRESS
    assert (file.name, file.data.name) == ("x", "breast-cancer")


@pytest.mark.parametrize("text", [text for text, works in BY_HAND.values() if not works])
def test_a_table_that_cannot_be_exchanged_without_harm_is_left(text: str, parties: Parties) -> None:
    answer = by_hand(parties, text)
    before = files(parties.hospital.parent)

    with pytest.raises(DataError, match="take everything about the consortium out of it"):
        parties.accept(answer)
    assert files(parties.hospital.parent) == before


# --- What is refused, and then changes nothing ----------------------------------------------------


def for_another_request(parties: Parties) -> bytes:
    return parties.consortium.admit(sign(parties.hospital.parents[1] / "south" / "hospital.toml"))


def with_another_transport(parties: Parties) -> bytes:
    answer = parties.consortium.admit(parties.request())
    (parties.hospital.parent / "transport.pem").unlink()
    prepare(parties.hospital)
    return answer


def with_another_identity(parties: Parties) -> bytes:
    answer = parties.consortium.admit(parties.request())
    (parties.hospital.parent / "identity.pem").unlink()
    prepare(parties.hospital)
    return answer


def after_expulsion(parties: Parties) -> bytes:
    parties.consortium.admit(parties.request())
    parties.consortium.expel("Klinikum Süd")
    return parties.consortium.answer()


def of_another_coordinator(parties: Parties) -> bytes:
    other = Consortium.found(parties.hospital.parents[1] / "other", ADDRESS)
    return other.admit(parties.request())


def changed(parties: Parties) -> bytes:
    answer = parties.consortium.admit(parties.request())
    return answer.replace(b"fedward.example.org", b"mallory.example.org")


def nothing(parties: Parties) -> bytes:
    del parties
    return b"{}"


@pytest.mark.parametrize(
    ("make", "kind", "why"),
    [
        (for_another_request, DataError, "does not name 'Klinikum Süd' with this hospital's keys"),
        (with_another_transport, DataError, "with this hospital's keys"),
        (with_another_identity, DataError, "with this hospital's keys"),
        (after_expulsion, DataError, "with this hospital's keys"),
        (of_another_coordinator, BadSignature, "signature"),
        (changed, BadSignature, "signature"),
        (nothing, BadRequest, "not an enrolment answer"),
    ],
)
def test_an_answer_that_is_not_for_this_hospital_changes_nothing(
    make: Callable[[Parties], bytes], kind: type[FedwardError], why: str, parties: Parties
) -> None:
    answer = make(parties)
    before = files(parties.hospital.parent)

    with pytest.raises(kind, match=why):
        parties.accept(answer)
    assert files(parties.hospital.parent) == before


def test_an_older_roster_is_refused(parties: Parties) -> None:
    first = parties.consortium.admit(parties.request())
    parties.consortium.admit(sign(parties.hospital.parents[1] / "south" / "hospital.toml"))
    parties.accept(parties.consortium.answer())
    before = files(parties.hospital.parent)

    with pytest.raises(DataError, match="version 2 of the roster, older than 3"):
        parties.accept(first)
    assert files(parties.hospital.parent) == before


def test_two_rosters_of_one_version_are_told(parties: Parties) -> None:
    parties.accept(parties.consortium.admit(parties.request()))
    folder = parties.hospital.parents[1]
    # The coordinator went back to an old backup and gave the same version again.
    forked = folder / "c" / "roster.json"
    kept = forked.read_bytes()
    parties.consortium.expel("Klinikum Süd")
    parties.consortium.admit(parties.request())
    newest = parties.consortium.answer()
    parties.accept(newest)
    forked.write_bytes(kept)
    parties.consortium.admit(sign(folder / "south" / "hospital.toml"))
    parties.consortium.admit(sign_as(folder / "west" / "hospital.toml", "west"))

    with pytest.raises(DataError, match="two rosters of version 4"):
        parties.accept(parties.consortium.answer())


def sign_as(hospital: Path, name: str) -> bytes:
    prepare(hospital, name)
    return request_enrolment(hospital)[0]


def test_a_member_does_not_change_its_coordinator_in_passing(parties: Parties) -> None:
    parties.accept(parties.consortium.admit(parties.request()))
    other = Consortium.found(parties.hospital.parents[1] / "other", ADDRESS)
    answer = other.admit(parties.request())
    before = files(parties.hospital.parent)

    with pytest.raises(DataError, match="another coordinator"):
        accept_answer(parties.hospital, answer, other.coordinator)
    assert files(parties.hospital.parent) == before


def test_an_authority_whose_time_is_over_is_refused(parties: Parties) -> None:
    answer = parties.consortium.admit(parties.request())

    with pytest.raises(BadCertificate, match="clock"):
        accept_answer(
            parties.hospital,
            answer,
            parties.consortium.coordinator,
            clock=lambda: datetime.now(UTC) + timedelta(days=4000),
        )


def test_another_member_s_key_is_no_use(parties: Parties) -> None:
    answer = parties.consortium.admit(parties.request())
    (parties.hospital.parent / "identity.pem").unlink()
    Identity.generate().save(parties.hospital.parent / "identity.pem")

    with pytest.raises(DataError, match="with this hospital's keys"):
        parties.accept(answer)


# --- hospital.toml --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "further",
    [
        'transport = "t.pem"',
        'ca = "ca.pem"\naddress = "a:1"',
        'transport = "t.pem"\nca = "ca.pem"',
        'transport = "t.pem"\nca = "ca.pem"\naddress = "a"',
        'transport = "t.pem"\nca = "ca.pem"\naddress = "a:1"\nmore = 1',
    ],
)
def test_a_connection_is_described_whole_or_not_at_all(further: str, tmp_path: Path) -> None:
    (tmp_path / "hospital.toml").write_text(
        f'name = "x"\n[data]\nformat = "bundled"\nname = "breast-cancer"\n'
        f'[consortium]\ncoordinator = "{"0" * 64}"\n{further}\n',
        "utf-8",
    )

    with pytest.raises(HospitalError, match="consortium"):
        read_hospital(tmp_path / "hospital.toml")
