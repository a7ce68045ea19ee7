"""A bad line between one hospital and the gate: a clear line in its log, and nothing lost."""

from __future__ import annotations

import email.utils
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.client.hospital import read_hospital, write_hospital
from fedward.privacy.key_file import read_key
from fedward.server.aggregator import read_aggregator
from fedward.server.run_registry import RunFolder
from fedward.study.study import Study
from tests.deployment.at_work import ROUNDS, AtWork, at_work, three, until
from tests.deployment.front import Another, Forward, Front, Mute
from tests.superlink_ward import Authority

pytestmark = pytest.mark.slow
FAR = "C"
"""The hospital behind the bad line."""

STUDY = three("patient", private=True, participation={"deadline_seconds": 150.0})
LONG = three(
    "long",
    private=True,
    model={"name": "mlp", "hidden": [256, 256]},
    participation={"deadline_seconds": 150.0},
)
"""Its model, of 265 kB, is on its way for a while; a short one is in one piece."""
HOUR = 3600.0
GIVEN_UP = (
    45.0  # seconds; the hospital's own patience with a silent line is 30, its heartbeat's too
)


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.close()


@pytest.fixture(scope="module")
def consortium(front: Front) -> Iterator[AtWork]:
    """A consortium, one of whose hospitals reaches the gate through the front only."""

    def prepare(made: AtWork) -> None:
        front.behind = read_aggregator(made.hub_file).port
        hospital = read_hospital(made.file(FAR))
        assert hospital.consortium is not None
        table = hospital.consortium.model_copy(update={"address": f"127.0.0.1:{front.port}"})
        write_hospital(hospital.model_copy(update={"consortium": table}), made.file(FAR))

    with at_work(STUDY, prepare=prepare) as found:
        found.finished(found.train(STUDY, "first"))
        found.finished(found.train(LONG, "second"))
        yield found


@pytest.fixture(autouse=True)
def good_line(front: Front) -> Iterator[None]:
    """A test leaves the line good."""
    yield
    front.behave(Forward())


@pytest.mark.parametrize(
    ("study", "name", "sent"),
    [(LONG, "cut", 90_000), (STUDY, "cut-short", 6_000)],
    ids=["long", "short"],
)
def test_a_line_cut_in_the_middle_of_an_upload(
    consortium: AtWork, front: Front, study: Study, name: str, sent: int
) -> None:
    """The short answer goes inside its announcement, in 9 kB."""
    run, begun = _trains(consortium, name, study)
    cuts = front.cuts
    front.cut_upload(after=sent)
    until(lambda: front.cuts > cuts)
    consortium.until_said(FAR, "not connected: .*(the line was cut|cannot be reached)", after=begun)
    consortium.until_said(FAR, f"answered train round 1 of run {name} ", after=begun)
    _nothing_lost(consortium, run)


def test_a_short_question_that_is_cut(consortium: AtWork, front: Front) -> None:
    """Nobody announces it again: it is asked anew when the exchange's time is over."""
    for attempt in range(5):
        if (run := _first_question_cut(consortium, front, f"short-{attempt}")) is not None:
            break
    else:
        pytest.fail("the question to train was always there before the line was cut")
    _nothing_lost(consortium, run, first=2)
    consortium.no_traceback()


def _first_question_cut(consortium: AtWork, front: Front, name: str) -> RunFolder | None:
    """A run whose first question to train was cut on its way down; None if the cut came late."""
    study = three("short", private=True, participation={"deadline_seconds": 10.0})
    cuts, begun = front.cuts, len(consortium.said(FAR))
    run = consortium.train(study, name)
    consortium.until_said(FAR, f"asked to .*advertise.* run {name}", after=begun)
    front.behave(
        Forward(cut_answer=800)
    )  # bytes: that question has 1,094, no answer to a poll half
    until(lambda: front.cuts > cuts)
    in_time = "asked to train" not in consortium.said(FAR)[begun:]
    consortium.until_said(FAR, "not connected: .*(the line was cut|cannot be reached)", after=begun)
    if in_time:
        return run
    consortium.finished(run)
    return None


def test_a_slow_line(consortium: AtWork, front: Front) -> None:
    run, begun = _trains(consortium, "slow")
    front.behave(Forward(rate=4_000.0))
    consortium.until_said(FAR, "answered train round 1 of run slow ", after=begun)
    front.behave(Forward())
    _nothing_lost(consortium, run)


def test_a_line_that_accepts_and_never_answers(consortium: AtWork, front: Front) -> None:
    run, begun = _trains(consortium, "deaf")
    front.behave(Mute())
    consortium.until_said(FAR, "not connected: .*it does not answer", after=begun)
    front.behave(Forward())
    _nothing_lost(consortium, run)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_line_that_goes_silent_amid_a_transfer(
    consortium: AtWork, front: Front, way: str
) -> None:
    """It stays open, and not a byte comes: no error will ever say so."""
    name = f"silent {way}"
    begun, silences = len(consortium.said(FAR)), front.silences
    if way == "up":
        run, begun = _trains(consortium, "silent-up", LONG)
        front.behave(Forward(silent_up=90_000))
    else:
        run = consortium.submit(LONG, "silent-down")
        consortium.until_said(FAR, "asked to .*advertise.* run silent-down", after=begun)
        front.behave(Forward(silent_down=90_000))
    until(lambda: front.silences > silences, what=name)
    since = time.monotonic()
    consortium.until_said(FAR, "not connected: .*it does not answer", after=begun)
    assert time.monotonic() - since < GIVEN_UP
    _nothing_lost(consortium, run)
    consortium.no_traceback()


def test_what_was_sent_is_sent_again_by_somebody_else(consortium: AtWork, front: Front) -> None:
    """TLS tells a replay from the first time: it leads nowhere, and harms nobody."""
    heard: list[bytearray] = []
    front.behave(Forward(heard=heard))
    run, _ = _trains(consortium, "replayed")
    for sent in [bytes(one) for one in heard if one]:
        with socket.create_connection(("127.0.0.1", front.behind), timeout=20) as again:
            again.sendall(sent[: 1 << 16])
            said = bytearray()
            again.settimeout(10)
            try:
                while piece := again.recv(1 << 16):
                    said += piece
            except ConnectionError:
                pass
        assert b"HTTP/1.1" not in said
    _nothing_lost(consortium, run)
    consortium.no_traceback()


@pytest.mark.parametrize(
    ("days", "host", "whose", "words"),
    [
        ((-9, -1), "127.0.0.1", "the consortium's", "certificate has expired"),
        ((-1, 9), "127.0.0.1", "another's", "unable to get local issuer|certificate verify|self"),
        ((-1, 9), "127.0.0.2", "the consortium's", "IP address mismatch"),
    ],
    ids=["expired", "of another authority", "for another host"],
)
def test_a_certificate_that_is_not_good(
    consortium: AtWork,
    front: Front,
    tmp_path: Path,
    *,
    days: tuple[int, int],
    host: str,
    whose: str,
    words: str,
) -> None:
    authority = _authority(consortium) if whose == "the consortium's" else Authority()
    begun = len(consortium.said(FAR))
    front.behave(Another(_tls(authority, tmp_path, days=days, host=host)))
    consortium.until_said(FAR, f"not connected: .*its certificate is not good.*({words})")
    _is_one_line_and_goes_on(consortium, front, begun, "CertificateRefused")


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_an_hour_off(
    consortium: AtWork, front: Front, tmp_path: Path, *, hours: int
) -> None:
    begun = len(consortium.said(FAR))
    date = email.utils.formatdate(time.time() + hours * HOUR, usegmt=True)
    lines = ["HTTP/1.1 401 Unauthorized", f"date: {date}", "content-length: 0", "connection: close"]
    said = "\r\n".join([*lines, "", ""]).encode()
    front.behave(Another(_tls(_authority(consortium), tmp_path), said))
    where = "behind" if hours > 0 else "ahead of"
    consortium.until_said(
        FAR, rf"not connected: .*this machine's clock is 3\d\d\d s {where}", after=begun
    )
    _is_one_line_and_goes_on(consortium, front, begun, "ClockDiffers", "KeyRefused")


def _trains(consortium: AtWork, name: str, study: Study = STUDY) -> tuple[RunFolder, int]:
    """A run whose first round the far hospital has been asked to train."""
    begun = len(consortium.said(FAR))
    run = consortium.submit(study, name)
    consortium.until_said(FAR, f"asked to train round 1 of run {name} ", after=begun)
    return run, begun


def _nothing_lost(consortium: AtWork, run: RunFolder, *, first: int = 1) -> None:
    """Everybody answered each round, the first one at such an attempt, and was charged once."""
    consortium.finished(run)
    rounds = consortium.events(run, "RoundFinished")
    assert [event["answered"] for event in rounds] == [3] * ROUNDS
    assert [event["attempts"] for event in rounds] == [first] + [1] * (ROUNDS - 1)
    for name in consortium.names:
        charged = [entry.charge for entry in consortium.charges(name)]
        own = [charge.round for charge in charged if charge.run == run.record.name]
        assert own == list(range(1, ROUNDS + 1))
        assert consortium.audited(name)


def _is_one_line_and_goes_on(consortium: AtWork, front: Front, begun: int, *kinds: str) -> None:
    """One line for each kind of refusal, however often it is met."""
    time.sleep(3)  # several tries more, of which nothing is said
    said = consortium.said(FAR)[begun:].splitlines()
    beneath = ("the line was cut", "it cannot be reached")  # the network's own, as at a handshake
    refused = [x for x in said if "not connected" in x and not any(word in x for word in beneath)]
    assert len(refused) == len(kinds), (kinds, said)
    process = consortium.deployment.parts[FAR].process
    assert process is not None
    assert process.poll() is None
    after = len(consortium.said(FAR))
    front.behave(Forward())
    consortium.until_said(FAR, "connected to", after=after)
    consortium.no_traceback()


def _authority(consortium: AtWork) -> Authority:
    """The consortium's own authority, for certificates that it would not give."""
    folder = consortium.deployment.folder / "coordinator"
    key, authority = read_key(folder / "ca-key.pem"), Authority()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority.key = key
    authority.name = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()).subject
    return authority


def _tls(
    authority: Authority,
    folder: Path,
    *,
    days: tuple[int, int] = (-1, 9),
    host: str = "127.0.0.1",
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certify(folder, days=days, host=host))
    return context
