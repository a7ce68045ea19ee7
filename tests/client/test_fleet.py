"""What a hospital's line says when something else than its aggregator answers, or nothing does."""

from __future__ import annotations

import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PushMessagesResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PushObjectResponse

from fedward.client.fleet import (
    CLOCK_TOLERANCE,
    FleetConnection,
    _Coming,
    refuse_untested_flower,
)
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
from fedward.client.letter import Letter
from tests.client.test_daemon import letter
from tests.superlink_ward import Authority

KEY = ec.generate_private_key(ec.SECP384R1())
AUTHORITY = Authority()


@contextmanager
def answering(
    folder: Path,
    answer: Callable[[socket.socket], None],
    *,
    authority: Authority = AUTHORITY,
    days: tuple[int, int] = (-1, 30),
    host: str = "127.0.0.1",
    tls: bool = True,
) -> Iterator[str]:
    """A server that treats every connection in one way."""
    certificate, key = authority.certify(folder, days=days, host=host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(line, server_side=True) if tls else line as inside:
                    inside.settimeout(5)
                    answer(inside)
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{door.getsockname()[1]}"
    door.shutdown(socket.SHUT_RDWR)
    door.close()
    thread.join(10)


def read(line: socket.socket) -> None:
    """Take a whole request: who closes with some of it unread cuts the line."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += line.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(line.recv(left))


def saying(status: int, headers: str = "", body: bytes = b"") -> Callable[[socket.socket], None]:
    def answer(line: socket.socket) -> None:
        read(line)
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        line.sendall(head.encode() + body)

    return answer


def error_at(address: str, *, now: Callable[[], float] = time.time, ca: bytes = b"") -> FleetError:
    """What the first request to an address meets."""
    timeout = httpx.Timeout(1.0)
    line = FleetConnection(address, ca or AUTHORITY.pem, KEY, now=now, timeout=timeout)
    try:
        with pytest.raises(FleetError) as caught:
            line.activate()
    finally:
        line.close()
    assert "\n" not in caught.value.line()
    assert caught.value.line().startswith(f"{address}: ")
    return caught.value


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


def test_a_clock_that_is_right_is_not_blamed(tmp_path: Path) -> None:
    date = f"date: {email.utils.formatdate(usegmt=True)}\r\n"
    with answering(tmp_path, saying(401, date)) as address:
        assert type(error_at(address)) is KeyRefused


def test_another_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_untested_flower()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.42.0")

    with pytest.raises(UntestedFlower, match=r"1\.42\.0"):
        refuse_untested_flower()


class Handing(FleetConnection):
    """A line at which one message waits."""

    def __init__(self, waiting: Letter) -> None:
        super().__init__("127.0.0.1:1", AUTHORITY.pem, KEY)
        self._waiting, self._announced = waiting, False

    def _call(self, path: str, asked: Any, kind: Any, **_: Any) -> Any:  # noqa: ANN401
        if path == "pull-object":
            content = self._waiting.objects[asked.object_id]
            return kind(object_found=True, object_available=True, object_content=content)
        if path != "pull-messages" or self._announced:
            return kind()
        self._announced = True
        head, tree = (
            MessageProto.FromString(self._waiting.head),
            ObjectTree.FromString(self._waiting.tree),
        )
        return kind(messages_list=[head], message_object_trees=[tree])


def test_a_message_comes_whole() -> None:
    line = Handing(letter())

    assert line.receive() == letter()
    assert line.receive() is None
    line.close()


def test_a_message_whose_head_lies_is_refused_once() -> None:
    head = MessageProto.FromString(letter().head)
    head.metadata.message_type = "nonsense.x.y"
    line = Handing(Letter(head.SerializeToString(), letter().tree, letter().objects))

    with pytest.raises(MessageRefused, match="not what it says"):
        line.receive()
    assert line.receive() is None
    line.close()


def test_an_answer_that_was_cut_off_is_sent_to_its_last_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower names what it lacks once; told again, it says that it lacks nothing."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY)
    answer = letter()
    had: set[str] = set()
    said = list(answer.objects)

    def call(path: str, asked: Any, kind: Any, **_: int) -> Any:  # noqa: ANN401
        if path == "push-messages":
            lacks = said[:]
            said.clear()
            return PushMessagesResponse(objects_to_push=lacks, session_id="s" if lacks else "t")
        if asked.object_id == answer.digest and asked.session_id == "s":
            raise ConnectionLost("cut")
        assert asked.session_id in {"s", ""}
        had.add(asked.object_id)
        return PushObjectResponse(stored=True)

    monkeypatch.setattr(line, "_call", call)
    with pytest.raises(ConnectionLost):
        line.send(answer)
    assert answer.digest not in had
    line.send(answer)
    assert had == set(answer.objects)


def test_an_answer_at_which_the_aggregator_fails_again_and_again_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An aggregator that came back on new state fails at answers to its old runs."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY)
    first, second = letter(), letter(2, RecordDict({"another": ConfigRecord({"a": 1})}))

    def call(path: str, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        raise ServerFault("it answers with HTTP 500")

    monkeypatch.setattr(line, "_call", call)
    for answer in (first, second):
        for _ in range(4):
            with pytest.raises(ServerFault):
                line.send(answer)
        with pytest.raises(MessageRefused, match="failed 5 times"):
            line.send(answer)
    line.close()


def test_a_message_at_which_the_aggregator_fails_again_and_again_is_given_up() -> None:
    class Failing(Handing):
        def _call(self, path: str, *asked: Any, **options: Any) -> Any:  # noqa: ANN401
            if path == "pull-object":
                raise ServerFault("it answers with HTTP 500")
            return super()._call(path, *asked, **options)

    line = Failing(letter())
    for _ in range(4):
        with pytest.raises(ServerFault):
            line.receive()
    with pytest.raises(MessageRefused, match="failed 5 times"):
        line.receive()
    assert line.receive() is None
    line.close()


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


def test_the_parts_of_a_message_are_fetched_in_the_order_in_which_they_come() -> None:
    """Who asks for the root first waits until everything is there, and has it all to fetch then."""
    names = ["chunk 1", "chunk 2", "array", "terms", "message"]
    chunks = [ObjectTree(object_id=name) for name in names[:2]]
    array = ObjectTree(object_id="array", children=chunks)
    tree = ObjectTree(object_id="message", children=[array, ObjectTree(object_id="terms")])

    assert _Coming(MessageProto(), tree).missing() == names


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
