"""A hospital is a member when its own files and the coordinator's signature agree that it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedward.client.data.sources import BundledSource
from fedward.client.hospital import Consortium, HospitalFile
from fedward.client.membership import keep_newest_roster, read_membership
from fedward.privacy.identity import Identity
from fedward.privacy.key_file import write_key
from fedward.privacy.protocol_errors import BadSignature
from fedward.privacy.roster import Roster, sign_roster
from fedward.study.errors import DataError, RefusedError

OTHERS = {name: Identity.generate() for name in ("south", "west")}


@dataclass
class Member:
    """The hospital `north` with its key and a signed roster in one folder."""

    folder: Path
    identity: Identity
    coordinator: Identity

    def file(self, **consortium: Any) -> HospitalFile:  # noqa: ANN401
        """Its hospital.toml, with these settings of [consortium]."""
        settings = {"coordinator": self.coordinator.public.hex(), **consortium}
        return HospitalFile(
            name="north",
            data=BundledSource(format="bundled", name="breast-cancer"),
            consortium=Consortium(**settings),
        )

    def sign(self, members: Mapping[str, Identity], *, by: Identity | None = None) -> None:
        """Put a roster of these members into the folder."""
        keys = {name: identity.public for name, identity in members.items()}
        document = sign_roster(Roster(1, keys), by or self.coordinator)
        (self.folder / "roster.json").write_bytes(document)

    def refusal(self, file: HospitalFile | None = None) -> str:
        with pytest.raises(DataError) as caught:
            read_membership(file or self.file(), self.folder)
        return str(caught.value)


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """A member whose files are as they should be."""
    found = Member(tmp_path, Identity.generate(), Identity.generate())
    found.identity.save(tmp_path / "identity.pem")
    found.sign({"north": found.identity, **OTHERS})
    return found


def test_a_member_has_its_name_its_key_and_the_roster(member: Member) -> None:
    found = read_membership(member.file(), member.folder)

    assert found.name == "north"
    assert found.identity.public == member.identity.public
    assert found.roster.members == {
        "north": member.identity.public,
        **{name: identity.public for name, identity in OTHERS.items()},
    }


def test_its_files_may_lie_elsewhere(member: Member) -> None:
    (member.folder / "keys").mkdir()
    (member.folder / "identity.pem").rename(member.folder / "keys" / "mine.pem")
    roster = (member.folder / "roster.json").rename(member.folder / "members.json")

    file = member.file(roster=str(roster), identity="keys/mine.pem")

    assert read_membership(file, member.folder).identity.public == member.identity.public


def test_a_hospital_in_no_consortium_is_refused_and_told_what_to_enter(member: Member) -> None:
    alone = member.file().model_copy(update={"consortium": None})

    with pytest.raises(RefusedError, match=r"in no consortium.*fedward hospital enroll"):
        read_membership(alone, member.folder)


# --- The roster -----------------------------------------------------------------------------------


def test_a_coordinator_with_another_key_than_the_pinned_one_is_not_believed(
    member: Member,
) -> None:
    said = member.refusal(member.file(coordinator=Identity.generate().public.hex()))

    assert "roster.json" in said
    assert "signature" in said
    assert "by telephone" in said


def test_a_roster_that_a_member_signed_is_not_believed(member: Member) -> None:
    """The hospital's own signature is no coordinator's either."""
    for somebody in (OTHERS["south"], member.identity):
        member.sign({"north": member.identity, **OTHERS}, by=somebody)

        assert "signature" in member.refusal()


def test_a_roster_without_this_hospital_is_refused(member: Member) -> None:
    member.sign(OTHERS)

    assert "does not name 'north' with this hospital's key" in member.refusal()


def test_a_roster_with_another_key_for_this_hospital_is_refused(member: Member) -> None:
    member.sign({"north": Identity.generate(), **OTHERS})

    assert "does not name 'north' with this hospital's key" in member.refusal()


def test_a_roster_with_this_key_under_another_name_is_refused(member: Member) -> None:
    member.sign({"North": member.identity, **OTHERS})

    assert "does not name 'north' with this hospital's key" in member.refusal()


Change = Callable[[bytes], bytes]

CHANGES: dict[str, Change] = {
    "a member's key": lambda d: d.replace(
        OTHERS["south"].public.hex().encode(), Identity.generate().public.hex().encode()
    ),
    "a member's name": lambda d: d.replace(b'"south"', b'"soUth"'),
    "the version": lambda d: d.replace(b'"version":1', b'"version":2'),
    "the last byte": lambda d: d[:-1],
    "the first half": lambda d: d[: len(d) // 2],
    "everything": lambda d: b"",
    "a space more": lambda d: d + b" ",
    "another format": lambda d: b"members: north",
    "no text": lambda d: b"\xff\xfe\x00",
    "nested without end": lambda d: b"[" * 100_000,
    "5 MiB of it": lambda d: d + b" " * (5 << 20),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_roster_that_was_changed_is_refused(what: str, member: Member) -> None:
    file = member.folder / "roster.json"
    before = file.read_bytes()
    file.write_bytes(CHANGES[what](before))
    assert file.read_bytes() != before

    said = member.refusal()

    assert "no roster for this hospital" in said
    assert "ask the coordinator" in said


def test_a_roster_that_is_not_there_is_named(member: Member) -> None:
    (member.folder / "roster.json").unlink()

    assert "No such file" in member.refusal()
    assert "elsewhere.json" in member.refusal(member.file(roster="elsewhere.json"))


def test_a_folder_in_the_roster_s_place_is_refused(member: Member) -> None:
    assert "cannot be read" in member.refusal(member.file(roster="."))


# --- The identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_an_identity_that_others_may_read_is_refused(mode: int, member: Member) -> None:
    (member.folder / "identity.pem").chmod(mode)

    said = member.refusal()

    assert "others than its owner may use this private key" in said
    assert "chmod 600" in said


def test_an_identity_that_is_not_there_is_named(member: Member) -> None:
    (member.folder / "identity.pem").unlink()

    assert "identity.pem" in member.refusal()


def test_an_identity_of_another_member_is_refused(member: Member) -> None:
    (member.folder / "identity.pem").unlink()
    OTHERS["south"].save(member.folder / "identity.pem")

    assert "does not name 'north' with this hospital's key" in member.refusal()


def test_a_key_of_another_kind_is_no_identity(member: Member) -> None:
    (member.folder / "identity.pem").unlink()
    write_key(member.folder / "identity.pem", X25519PrivateKey.generate())

    assert "another kind than Ed25519" in member.refusal()


def test_no_message_quotes_the_private_key(member: Member) -> None:
    path = member.folder / "identity.pem"
    secret = path.read_text("ascii").splitlines()[1]
    said = []
    path.chmod(0o644)
    said.append(member.refusal())
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-30])
    said.append(member.refusal())
    os.truncate(path, 0)
    said.append(member.refusal())

    assert not any(secret[20:30] in text for text in said)


# --- A roster that the aggregator brings ----------------------------------------------------------


def brought(member: Member, version: int, members: Mapping[str, Identity]) -> bytes:
    """The file's content after the aggregator has brought a roster, signed by the coordinator."""
    keys = {name: identity.public for name, identity in members.items()}
    document = sign_roster(Roster(version, keys), member.coordinator)
    keep_newest_roster(document, member.file(), member.folder)
    return (member.folder / "roster.json").read_bytes()


def test_a_newer_roster_takes_the_old_one_s_place(member: Member) -> None:
    brought(member, 2, {"north": member.identity, "south": OTHERS["south"]})

    found = read_membership(member.file(), member.folder).roster
    assert (found.version, set(found.members)) == (2, {"north", "south"})


def test_an_older_roster_or_the_same_changes_nothing(member: Member) -> None:
    everybody = {"north": member.identity, **OTHERS}
    before = brought(member, 3, everybody)

    assert brought(member, 3, everybody) == before
    assert brought(member, 2, {"north": member.identity}) == before


def test_a_second_roster_of_one_version_is_refused(member: Member) -> None:
    before = brought(member, 3, {"north": member.identity, **OTHERS})

    with pytest.raises(DataError, match="two rosters of version 3"):
        brought(member, 3, {"north": member.identity})
    assert (member.folder / "roster.json").read_bytes() == before


def test_a_newer_roster_without_this_hospital_ends_its_membership(member: Member) -> None:
    brought(member, 2, OTHERS)

    assert "does not name 'north'" in member.refusal()


def test_a_newer_roster_that_somebody_else_signed_changes_nothing(member: Member) -> None:
    before = (member.folder / "roster.json").read_bytes()
    forged = sign_roster(Roster(2, {"north": member.identity.public}), OTHERS["south"])

    with pytest.raises(BadSignature):
        keep_newest_roster(forged, member.file(), member.folder)
    assert (member.folder / "roster.json").read_bytes() == before
