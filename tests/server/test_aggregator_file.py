"""`aggregator.toml`, and what may be installed beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedward.privacy.certificates import Authority
from fedward.privacy.enrolment import EnrolmentAnswer, fingerprint, sign_answer
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import ProtocolError
from fedward.privacy.roster import Roster, sign_roster
from fedward.server.aggregator import Aggregator, found_aggregator, read_aggregator
from fedward.study.errors import AggregatorError, DataError, InputError

NOW = datetime.now(UTC)
COORDINATOR = Identity.generate()
AUTHORITY = Authority.generate(now=NOW - timedelta(days=1))
TOLD = fingerprint(COORDINATOR.public)


def roster(version: int, signer: Identity = COORDINATOR) -> bytes:
    return sign_roster(Roster(version, {"Ward": COORDINATOR.public}), signer)


@pytest.fixture
def hub(tmp_path: Path) -> Aggregator:
    return found_aggregator(
        tmp_path / "aggregator.toml", name="Hub", host="hub.example.org", port=9443
    )


def answer(
    hub: Aggregator,
    *,
    version: int = 1,
    address: str = "hub.example.org:9443",
    certificate: bytes | None = None,
    signer: Identity = COORDINATOR,
) -> bytes:
    chain = AUTHORITY.certify(hub.request(), now=NOW) if certificate is None else certificate
    found = EnrolmentAnswer(roster(version, signer), signer.public, AUTHORITY.pem, address, chain)
    return sign_answer(found, signer)


def test_a_founded_aggregator_has_a_key_of_its_owner_and_is_not_enrolled(hub: Aggregator) -> None:
    assert hub.key_path.stat().st_mode & 0o777 == 0o600
    assert read_aggregator(hub.path).name == "Hub"
    with pytest.raises(AggregatorError, match="enroll --answer"):
        _ = hub.coordinator
    with pytest.raises(DataError, match="one already"):
        found_aggregator(hub.path, name="Hub", host="hub.example.org", port=9443)


def test_an_answer_is_installed_whole(hub: Aggregator) -> None:
    hub.enroll(answer(hub), TOLD.upper())

    again = Aggregator(hub.path)
    assert again.coordinator == COORDINATOR.public
    assert again.roster().version == 1
    again.check_certificate()


def test_a_renewal_never_puts_an_older_roster_back(hub: Aggregator) -> None:
    hub.enroll(answer(hub, version=5), TOLD)
    hub.enroll(answer(hub, version=3), TOLD)
    assert hub.roster().version == 5

    hub.enroll(answer(hub, version=6), TOLD)

    assert hub.roster().version == 6


@pytest.mark.parametrize("version", [1, 4, 5])
def test_only_a_newer_roster_is_installed(hub: Aggregator, version: int) -> None:
    hub.enroll(answer(hub, version=5), TOLD)
    others = Roster(version, {"Another": COORDINATOR.public})

    with pytest.raises(InputError, match="roster 5 is installed"):
        hub.install_roster(sign_roster(others, COORDINATOR))
    hub.install_roster(roster(6))

    assert hub.roster().version == 6


def test_the_roster_that_is_installed_may_be_installed_again(hub: Aggregator) -> None:
    hub.enroll(answer(hub, version=5), TOLD)
    before = hub.roster_path.stat().st_mtime_ns

    assert hub.install_roster(roster(5)) == hub.roster()

    assert hub.roster_path.stat().st_mtime_ns == before


def test_what_is_forged_or_for_another_changes_nothing(hub: Aggregator, tmp_path: Path) -> None:
    other = found_aggregator(tmp_path / "b" / "a.toml", name="B", host="hub.example.org", port=1)
    elsewhere = answer(hub, address="evil.example.org:9443")
    files = sorted(hub.path.parent.iterdir())
    before = hub.path.read_bytes()
    genuine = answer(hub)
    another = b"1" if genuine[-3:-2] == b"0" else b"0"  # digit at the end of the signature

    for document, told in (
        (genuine, fingerprint(b"another key")),
        (genuine[:-3] + another + b'"}', TOLD),
        (answer(hub).replace(b"hub.example", b"hub.exbmple"), TOLD),
        (answer(hub, certificate=b""), TOLD),
        (answer(hub, certificate=AUTHORITY.certify(other.request(), now=NOW)), TOLD),
        (
            answer(hub, certificate=AUTHORITY.certify(hub.request(), now=NOW + timedelta(days=9))),
            TOLD,
        ),
        (elsewhere, TOLD),
        (b"{}", TOLD),
    ):
        with pytest.raises((InputError, ProtocolError)):
            hub.enroll(document, told)

    assert sorted(hub.path.parent.iterdir()) == files
    assert hub.path.read_bytes() == before


def test_another_coordinator_is_not_taken_over(hub: Aggregator) -> None:
    hub.enroll(answer(hub), TOLD)
    stranger = Identity.generate()

    with pytest.raises(InputError, match="another coordinator"):
        hub.enroll(answer(hub, signer=stranger), fingerprint(stranger.public))
    with pytest.raises(ProtocolError):
        hub.install_roster(roster(9, stranger))

    assert hub.roster().version == 1


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("port = 0", "port"),
        ("port = 70000", "port"),
        ('port = "9443"', "port"),
        ('host = "UPPER.example"', "host"),
        ('coordinator = "abc"', "coordinator"),
        ('prot = "x"', "prot"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, line: str, key: str) -> None:
    values = {"name": '"Hub"', "host": '"hub"'}
    values.pop(line.partition(" ")[0], None)
    lines = [f"{name} = {value}" for name, value in values.items()]
    path = tmp_path / "aggregator.toml"
    path.write_text("\n".join([*lines, line]), encoding="utf-8")

    with pytest.raises(AggregatorError) as error:
        read_aggregator(path)

    assert error.value.key == key
    assert "\n" not in error.value.line()


def test_how_patient_runs_are_can_be_set(hub: Aggregator) -> None:
    assert hub.file.runs.wait_seconds == 60
    with hub.path.open("a") as file:
        file.write("[runs]\nrepeats = 2\nwait_seconds = 0.5\n")
    runs = read_aggregator(hub.path).runs
    assert (runs.repeats, runs.wait_seconds) == (2, 0.5)
    hub.path.write_text(hub.path.read_text().replace("repeats = 2", "repeats = 0"))
    with pytest.raises(AggregatorError, match="repeats"):
        read_aggregator(hub.path)
