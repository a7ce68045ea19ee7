"""What a hospital's line says when something else than its aggregator answers, or nothing does."""

from __future__ import annotations

import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, RecordDict
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PushMessagesResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PushObjectResponse
from flwr.proto.node_pb2 import Node

from fedward.client.fleet import (
    CLOCK_TOLERANCE,
    FleetConnection,
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
from fedward.client.letter import Letter, from_announcement, names_in, reply_to, with_content
from fedward.client.messages_under_way import Coming, Faults
from fedward.study.messages import Masked, MaskedContribution
from fedward.study.wire import pack_answer
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


class Announcing(FleetConnection):
    """A line at which messages wait inside announcements; it keeps what is asked over it."""

    def __init__(self, *waiting: MessageProto, cut: int = 0) -> None:
        super().__init__("127.0.0.1:1", AUTHORITY.pem, KEY)
        self.asked: list[tuple[str, Any]] = []
        self._waiting = list(waiting)
        self._cut = cut  # after so many answers, which came

    def _call(self, path: str, asked: Any, kind: Any, **_: Any) -> Any:  # noqa: ANN401
        self.asked.append((path, asked))
        if path == "pull-messages" and self._waiting:
            head = self._waiting.pop(0)
            tree = ObjectTree(object_id=head.metadata.message_id)
            return kind(messages_list=[head], message_object_trees=[tree])
        if path == "push-messages":
            if self._cut:
                self._cut -= 1
                raise ConnectionLost("cut")
            known = [each for each, _ in self.asked].count("push-messages") > 1
            names = [] if known else names_in(asked.message_object_trees[0])
            return PushMessagesResponse(objects_to_push=names, session_id="s")
        return kind(stored=True) if path == "push-object" else kind()

    def over(self) -> list[str]:
        """What was asked, once nothing is under way."""
        self._lines.shutdown(wait=True)
        return [path for path, _ in self.asked]


def test_what_was_asked_inside_an_announcement_is_answered_so() -> None:
    line = Announcing(with_content(letter()))
    question = line.receive()
    assert question == letter()
    answer = reply_to(question, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))
    line.send(answer)

    assert line.over() == ["pull-messages", "push-messages", "push-object"]
    pushed = line.asked[1][1]
    assert from_announcement(pushed.messages_list[0]) == answer
    assert [tree.object_id for tree in pushed.message_object_trees] == [answer.digest]
    assert line.asked[2][1].object_id == answer.digest


def test_what_came_inside_an_announcement_is_confirmed_with_the_next() -> None:
    """Its root comes after it; a SuperLink that has forgotten it by then never closes its books."""
    forged = with_content(letter(2))
    forged.content.items.add(key="more")
    line = Announcing(with_content(letter(1)), forged, with_content(letter(3)))
    line.receive()
    assert "confirm-message-received" not in [path for path, _ in line.asked]
    with pytest.raises(MessageRefused, match="not what it says"):
        line.receive()
    assert line.receive() == letter(3)

    line.over()
    confirmed = [asked for path, asked in line.asked if path == "confirm-message-received"]
    assert {asked.message_object_id for asked in confirmed} == {
        letter(1).digest,
        letter(2).digest,
    }
    assert {asked.run_id for asked in confirmed} == {letter().run}


def test_an_answer_inside_an_announcement_that_was_cut_off_is_sent_again() -> None:
    """The aggregator may have it already, and then lacks nothing."""
    line = Announcing(with_content(letter()), cut=1)
    question = line.receive()
    assert question is not None
    answer = reply_to(question, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))
    with pytest.raises(ConnectionLost):
        line.send(answer)
    line.send(answer)

    assert line.over()[1:] == ["push-messages", "push-messages"]


@pytest.mark.parametrize("values", [20_000, 50_000], ids=["short", "long"])
def test_an_answer_with_an_array_beside_its_table_goes_as_objects(values: int) -> None:
    line = Announcing(with_content(letter()))
    question = line.receive()
    assert question is not None
    words = np.arange(values, dtype="<u4")
    masked = Masked(words, {"south": b"share"}, b"c" * 32)
    answer = reply_to(question, pack_answer(MaskedContribution("north", masked)))
    line.send(answer)

    line.over()
    pushed = next(asked for path, asked in line.asked if path == "push-messages")
    assert bool(pushed.messages_list[0].content.items) == (values == 20_000)
    assert len(names_in(pushed.message_object_trees[0])) == (1 if values == 20_000 else 6)


def test_an_answer_to_a_question_of_objects_goes_as_objects() -> None:
    line = Announcing(with_content(letter()))
    line.receive()
    other = letter(2)
    answer = reply_to(other, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))
    line.send(answer)

    assert line.over().count("push-object") == len(answer.objects)
    pushed = next(asked for path, asked in line.asked if path == "push-messages")
    assert not pushed.messages_list[0].content.items
    assert pushed.message_object_trees[0] == ObjectTree.FromString(answer.tree)


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


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FleetConnection:
    """A line whose aggregator fails at every request about a message."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY, clock=clock)
    line._node = Node(node_id=7)

    def call(path: str, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        raise ServerFault("it answers with HTTP 500")

    monkeypatch.setattr(line, "_call", call)
    return line


def test_an_answer_at_which_the_aggregator_fails_for_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    line = failing(clock, monkeypatch)
    first, second = letter(), letter(2, RecordDict({"another": ConfigRecord({"a": 1})}))

    for answer in (first, second):  # each has its own time
        for passed in (0, 1, 2, 4, 8, 16, 28.9):
            clock.now += passed
            with pytest.raises(ServerFault):
                line.send(answer)
        clock.now += 0.2
        with pytest.raises(MessageRefused, match="failed 8 times in 60 s") as error:
            line.send(answer)
        assert "\n" not in error.value.line()
    line.close()


def test_few_failures_are_no_reason_however_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is tried again seldom meets few of them in a minute."""
    clock = Clock()
    line = failing(clock, monkeypatch)
    for _ in range(4):
        with pytest.raises(ServerFault):
            line.send(letter())
        clock.now += 3600
    with pytest.raises(MessageRefused, match="failed 5 times"):
        line.send(letter())
    line.close()


def test_an_aggregator_that_lost_its_state_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It knows a hospital by a new number, and none of the old messages."""
    line = failing(Clock(), monkeypatch)
    with pytest.raises(ServerFault):
        line.send(letter())
    line._node = Node(node_id=8)

    with pytest.raises(MessageRefused, match="lost its state"):
        line.send(letter())
    line.close()


def test_a_message_at_which_the_aggregator_fails_for_long_is_given_up() -> None:
    class Failing(Handing):
        def _call(self, path: str, *asked: Any, **options: Any) -> Any:  # noqa: ANN401
            if path == "pull-object":
                raise ServerFault("it answers with HTTP 500")
            return super()._call(path, *asked, **options)

    line = Failing(letter())
    line._clock = clock = Clock()
    for _ in range(10):
        with pytest.raises(ServerFault):
            line.receive()
    clock.now += 61
    with pytest.raises(MessageRefused, match="failed 11 times in 61 s"):
        line.receive()
    assert line.receive() is None
    line.close()


@pytest.mark.parametrize("lasts", [600.0, float("nan"), -1.0])
def test_a_message_whose_time_is_over_before_it_came_is_given_up(lasts: float) -> None:
    class Failing(Handing):
        def _call(self, path: str, *asked: Any, **options: Any) -> Any:  # noqa: ANN401
            if path == "pull-object":
                raise ServerTrouble("it answers with HTTP 503")
            return super()._call(path, *asked, **options)

    line = Failing(letter(lasts=lasts))
    line._clock = clock = Clock()
    for _ in range(10 if lasts > 0 else 0):
        with pytest.raises(ServerTrouble):
            line.receive()
        clock.now += 59.9
    clock.now += 2
    with pytest.raises(MessageRefused, match="before its time was over") as error:
        line.receive()
    assert "\n" not in error.value.line()
    assert line.receive() is None
    line.close()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_for_work_that_is_refused_is_trouble_of_the_line(
    tmp_path: Path, status: int
) -> None:
    with answering(tmp_path, saying(status)) as address:
        line = FleetConnection(address, AUTHORITY.pem, KEY)
        with pytest.raises(ServerTrouble, match=f"HTTP {status}"):  # after which a pause is made
            line.receive()
        line.close()


def test_an_answer_that_is_not_taken_is_not_called_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower says that it lacks nothing of an answer that came too late: it has forgotten all."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY)
    asked = list[str]()

    def call(path: str, _asked: Any, _kind: Any, **_: int) -> Any:  # noqa: ANN401
        asked.append(path)
        return PushMessagesResponse(session_id="s")

    monkeypatch.setattr(line, "_call", call)
    with pytest.raises(MessageRefused, match="too late"):
        line.send(letter())
    assert asked == ["push-messages"]
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

    coming = Coming(1, b"", tree.SerializeToString(), names_in(tree), Faults(0))

    assert coming.missing() == names


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
