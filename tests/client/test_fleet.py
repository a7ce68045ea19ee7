"""What a hospital's line says when something else than its aggregator answers, or nothing does."""

from __future__ import annotations

import email.utils
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeResponse

from fedward.client.fleet import CLOCK_TOLERANCE, FleetConnection, refuse_untested_flower
from fedward.client.fleet_errors import (
    CertificateRefused,
    ClockDiffers,
    ConnectionLost,
    FleetError,
    KeyRefused,
    MessageRefused,
    RunOver,
    ServerFault,
    ServerTrouble,
    UntestedFlower,
)
from tests.client.answering import AUTHORITY, KEY, answering, error_at, read, saying
from tests.superlink_ward import Authority


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    error = error_at(f"127.0.0.1:{port}")

    assert type(error) is ConnectionLost
    assert "cannot be reached" in error.what


def test_a_line_that_is_open_but_silent_is_given_up(tmp_path: Path) -> None:
    with answering(tmp_path, lambda line: time.sleep(3)) as address:
        start = time.monotonic()
        assert type(error_at(address)) is ConnectionLost
        assert time.monotonic() - start < 3


def test_a_door_that_never_shakes_hands_is_given_up(tmp_path: Path) -> None:
    with answering(tmp_path, lambda line: time.sleep(3), tls=False) as address:
        assert type(error_at(address)) is ConnectionLost


def test_a_line_that_is_cut_at_once(tmp_path: Path) -> None:
    with answering(tmp_path, lambda line: line.close()) as address:
        assert type(error_at(address)) is ConnectionLost


def test_a_line_that_is_cut_amid_an_answer(tmp_path: Path) -> None:
    def half(line: socket.socket) -> None:
        read(line)
        line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")

    with answering(tmp_path, half) as address:
        assert type(error_at(address)) is ConnectionLost


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    with answering(tmp_path, saying(200), authority=Authority("other")) as address:
        assert type(error_at(address)) is CertificateRefused


@pytest.mark.parametrize(("days", "says"), [((-30, -1), "expired"), ((1, 30), "not yet valid")])
def test_a_certificate_out_of_its_time(tmp_path: Path, days: tuple[int, int], says: str) -> None:
    with answering(tmp_path, saying(200), days=days) as address:
        error = error_at(address)

    assert type(error) is CertificateRefused
    assert says in error.what
    assert "clock" in error.todo


def test_a_certificate_of_another_host(tmp_path: Path) -> None:
    with answering(tmp_path, saying(200), host="10.1.2.3") as address:
        assert type(error_at(address)) is CertificateRefused


def test_a_server_without_tls(tmp_path: Path) -> None:
    def plain(line: socket.socket) -> None:
        line.recv(65536)
        line.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    with answering(tmp_path, plain, tls=False) as address:
        assert type(error_at(address)) is CertificateRefused


def test_an_authority_that_is_none() -> None:
    with pytest.raises(CertificateRefused, match=r"ca\.pem"):
        FleetConnection("127.0.0.1:1", b"nonsense", KEY)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, KeyRefused),
        (412, KeyRefused),
        (403, RunOver),
        (400, MessageRefused),
        (413, MessageRefused),
        (404, ServerTrouble),
        (301, ServerTrouble),
        (500, ServerFault),
        (502, ServerTrouble),
        (503, ServerTrouble),
    ],
)
def test_what_a_status_means(tmp_path: Path, status: int, kind: type[FleetError]) -> None:
    with answering(tmp_path, saying(status, "location: https://example.org/\r\n")) as address:
        assert type(error_at(address)) is kind


def test_an_answer_that_is_not_flowers(tmp_path: Path) -> None:
    with answering(tmp_path, saying(200, body=b"<html>welcome</html>")) as address:
        assert type(error_at(address)) is ServerTrouble


def test_an_answer_that_never_ends(tmp_path: Path) -> None:
    def endless(line: socket.socket) -> None:
        read(line)
        line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
        for _ in range(40):
            line.sendall(bytes(2**20))

    with answering(tmp_path, endless) as address:
        assert type(error_at(address)) is MessageRefused


@pytest.mark.parametrize("ahead", [3600.0, -3600.0, CLOCK_TOLERANCE + 5, -CLOCK_TOLERANCE - 5])
def test_a_clock_that_differs_is_named(tmp_path: Path, ahead: float) -> None:
    date = f"date: {email.utils.formatdate(usegmt=True)}\r\n"
    with answering(tmp_path, saying(401, date)) as address:
        error = error_at(address, now=lambda: time.time() + ahead)

    assert type(error) is ClockDiffers
    assert ("ahead of" if ahead > 0 else "behind") in error.what
    assert "NTP" in error.todo


def whole_request(line: socket.socket) -> bytes:
    """A request's head, once its body has come too."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += line.recv(65536)
    head, _, body = came.partition(b"\r\n\r\n")
    wanted = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < wanted:
        body += line.recv(65536)
    return head + b"\r\n"


def stamps_at(folder: Path, ahead: float, tries: int) -> list[float]:
    """How far the signed times are from the server's, at one request after another.

    The server refuses each: what a clock that is followed cannot be blamed for is the key's fault.
    """
    heard: list[bytes] = []

    def answer(line: socket.socket) -> None:
        heard.append(whole_request(line))  # a line closed before that is cut at the other end
        date = email.utils.formatdate(usegmt=True)
        said = f"HTTP/1.1 401 X\r\ncontent-length: 0\r\nconnection: close\r\ndate: {date}\r\n\r\n"
        line.sendall(said.encode())

    with answering(folder, answer) as address:
        line = FleetConnection(address, AUTHORITY.pem, KEY, now=lambda: time.time() + ahead)
        for attempt in range(tries):
            blamed = abs(ahead) > 86_400 or (not attempt and abs(ahead) > CLOCK_TOLERANCE)
            with pytest.raises(ClockDiffers if blamed else KeyRefused):
                line.activate()
        line.close()
    name = TIMESTAMP_HEADER.lower().encode() + b": "
    found = [head[head.lower().index(name) + len(name) :].split(b"\r\n")[0] for head in heard]
    return [datetime.fromisoformat(text.decode()).timestamp() - time.time() for text in found]


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_clock_that_differs_is_put_right_by_the_aggregator_s(
    tmp_path: Path, ahead: float
) -> None:
    first, *later = stamps_at(tmp_path, ahead, 3)

    assert abs(first - ahead + 150) < 20
    assert all(abs(stamp + 150) < 20 for stamp in later)


@pytest.mark.parametrize("ahead", [100.0, 90_000.0])
def test_a_clock_is_followed_only_where_it_helps_and_never_by_days(
    tmp_path: Path, ahead: float
) -> None:
    assert all(abs(stamp - ahead + 150) < 20 for stamp in stamps_at(tmp_path, ahead, 2))


def test_a_clock_that_is_right_is_not_blamed(tmp_path: Path) -> None:
    date = f"date: {email.utils.formatdate(usegmt=True)}\r\n"
    with answering(tmp_path, saying(401, date)) as address:
        assert type(error_at(address)) is KeyRefused


def test_another_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_untested_flower()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.42.0")

    with pytest.raises(UntestedFlower, match=r"1\.42\.0"):
        refuse_untested_flower()


def test_a_number_that_is_remembered_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that was killed still counts as here, and cannot be activated a second time."""
    file, asked = tmp_path / "node", list[str]()

    def call(path: str, _asked: Any, kind: Any, **_: int) -> Any:  # noqa: ANN401
        asked.append(path)
        if path == "send-node-heartbeat" and file.read_text() == "8\n":
            raise KeyRefused("another number")
        return kind(**({"node_id": 7} if path == "activate-node" else {"success": True}))

    for _ in range(2):
        line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY, node=file)
        monkeypatch.setattr(line, "_call", call)
        assert line.activate() == 7
    assert asked == ["activate-node", "send-node-heartbeat"]
    file.write_text("8\n")
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY, node=file)
    monkeypatch.setattr(line, "_call", call)
    assert line.activate() == 7
    assert file.read_text() == "7\n"


# --- A hospital's proxy ---------------------------------------------------------------------------


@contextmanager
def proxy(heard: list[bytes]) -> Iterator[str]:
    """A proxy that passes on, unopened, what was asked for with CONNECT."""
    door = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                heard.append(data)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            head = b""
            with line:
                while b"\r\n\r\n" not in head:
                    head += line.recv(65536)
                heard.append(head)
                host, port = head.split()[1].decode().split(":")
                with socket.create_connection((host, int(port))) as behind:
                    line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    back = threading.Thread(target=pass_on, args=(behind, line), daemon=True)
                    back.start()
                    pass_on(line, behind)
                    back.join(5)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    door.shutdown(socket.SHUT_RDWR)
    door.close()
    thread.join(10)


def test_a_proxy_of_the_environment_passes_on_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []
    body = ActivateNodeResponse(node_id=7).SerializeToString()
    with answering(tmp_path, saying(200, body=body)) as address, proxy(heard) as through:
        monkeypatch.setenv("HTTPS_PROXY", through)
        for name in ("NO_PROXY", "no_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        line = FleetConnection(address, AUTHORITY.pem, KEY)
        assert line.activate() == 7
        line.close()

    assert heard[0].startswith(f"CONNECT {address} HTTP/1.1".encode())
    assert b"flwr-public-key" not in b"".join(heard).lower()
    assert len(heard) > 3


def test_a_proxy_that_opens_tls_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    false = answering(tmp_path, saying(200), authority=Authority("proxy"))
    with false as address, proxy(heard) as through:
        monkeypatch.setenv("HTTPS_PROXY", through)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert type(error_at(address)) is CertificateRefused
    assert heard
