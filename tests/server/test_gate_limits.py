"""What callers of the public port may use, in front of a server that answers everything."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedward.server.gate import Gate, Route, public_tls
from fedward.server.gate_thread import GateThread
from fedward.server.http_sides import CHUNK, Limits
from fedward.server.lobby import network_of
from tests.server.flower_hospital import Files, make_certificates

SIGNED = (  # nobody behind looks at it
    "content-type: application/protobuf\r\n"
    "flwr-public-key: a2V5\r\nflwr-signature: c2ln\r\nflwr-timestamp: now\r\n"
)
BIG = CHUNK + 1  # smaller bodies are not counted
Open = Callable[[Limits], "House"]


class _Yes(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Says "ok" to every method."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"ok")


@contextlib.contextmanager
def behind_it(files: Files) -> Iterator[int]:
    """The port of a server over TLS that says yes."""
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(16), handlers=[_Yes()], options=options)
    pair = files.key.read_bytes(), files.certificate.read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield port
    server.stop(None).wait()


class House:
    """A gate that lets in whoever says `who`."""

    def __init__(self, files: Files, limits: Limits, behind: int) -> None:
        self.trust = ssl.create_default_context(cafile=str(files.ca))
        self.inner = Gate(public_tls(files.certificate, files.key), limits=limits)
        self.gate = GateThread(self.inner, "127.0.0.1", 0)
        self.route = Route(("127.0.0.1", behind), files.ca.read_bytes(), self.who)

    @staticmethod
    def who(headers: Mapping[bytes, bytes]) -> bytes | None:
        return headers.get(b"who")

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.gate.port), timeout=10)

    def connect(self) -> ssl.SSLSocket:
        return self.trust.wrap_socket(self.plain(), server_hostname="127.0.0.1")

    def ask(self, line: ssl.SSLSocket, who: str, size: int = 0) -> int:
        """The status; 0 if the connection was closed without a word."""
        line.sendall(head(who, size) + bytes(size))
        return status(line)


def head(who: str, size: int) -> bytes:
    return (
        f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\nwho: {who}\r\n{SIGNED}"
        f"content-length: {size}\r\n\r\n"
    ).encode()


def status(line: socket.socket) -> int:
    whole = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while not whole.endswith((b"ok", b"\r\n\r\n")) and (data := line.recv(1 << 16)):
            whole += data
            if whole.endswith(b"\r\n\r\n") and b" 200 " in whole:
                whole += line.recv(1 << 16)
    return int(whole.split(b" ")[1]) if whole else 0


def is_closed(line: socket.socket, *, seconds: float) -> bool:
    """Whether the other side closes the connection in time, without a word."""
    line.settimeout(seconds)
    try:
        return line.recv(1) == b""
    except TimeoutError:
        return False
    except (ConnectionError, ssl.SSLError):
        return True


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    files = make_certificates(tmp_path)
    with contextlib.ExitStack() as opened:
        behind = opened.enter_context(behind_it(files))

        def open_house(limits: Limits) -> House:
            house = House(files, limits, behind)
            opened.enter_context(house.gate).lead_to(house.route)
            return house

        yield open_house


def begin(house: House, who: str) -> ssl.SSLSocket:
    """A request whose body does not come to its end."""
    line = house.connect()
    line.sendall(head(who, BIG) + bytes(10))
    time.sleep(0.1)
    return line


@pytest.mark.parametrize(("bodies", "each"), [(8 * BIG, BIG), (BIG, 8 * BIG)])
def test_a_body_waits_for_room(open_: Open, bodies: int, each: int) -> None:
    house = open_(Limits(bodies=bodies, bodies_each=each, idle_seconds=5))
    with begin(house, "a") as slow, house.connect() as other, house.connect() as small:
        other.sendall(head("a", BIG) + bytes(BIG))
        assert not is_closed(other, seconds=0.3)
        assert house.ask(small, "a", 100) == 200  # a sign of life never waits
        slow.sendall(bytes(BIG - 10))
        other.settimeout(5)
        assert (status(slow), status(other)) == (200, 200)


def test_a_body_that_found_no_room_is_answered_503(open_: Open) -> None:
    house = open_(Limits(bodies_each=BIG, idle_seconds=2))
    with begin(house, "a") as slow, house.connect() as other:
        other.sendall(head("a", BIG))
        for _ in range(5):
            time.sleep(0.5)
            slow.sendall(b"x")
        assert status(other) == 503
        with house.connect() as another:
            assert house.ask(another, "b", BIG) == 200


def test_a_body_goes_to_the_server_that_is_there_when_it_has_come(open_: Open) -> None:
    house = open_(Limits())
    house.gate.lead_to(dataclasses.replace(house.route, address=("127.0.0.1", 1)))  # nobody
    with begin(house, "a") as slow:
        house.gate.lead_to(house.route)
        slow.sendall(bytes(BIG - 10))
        assert status(slow) == 200
    with begin(house, "a") as slow:
        house.gate.lead_to(None)
        slow.sendall(bytes(BIG - 10))
        assert status(slow) == 503


# --- Connections ----------------------------------------------------------------------------------


def test_strangers_of_one_address_are_few_and_leave_hospitals_alone(open_: Open) -> None:
    house = open_(Limits(strangers_each=3, head_seconds=2))
    with contextlib.ExitStack() as lines:
        known = [lines.enter_context(house.connect()) for _ in range(3)]
        assert [house.ask(line, "a") for line in known] == [200] * 3

        began = time.monotonic()
        silent = [lines.enter_context(house.plain()) for _ in range(2)]  # not even TLS
        silent += [lines.enter_context(house.connect())]
        one_too_many = lines.enter_context(house.plain())
        assert is_closed(one_too_many, seconds=1)
        assert [house.ask(line, "a") for line in known] == [200] * 3
        assert all(is_closed(line, seconds=4) for line in silent)
        assert time.monotonic() - began < 6

        again = lines.enter_context(house.connect())
        assert house.ask(again, "b") == 200
        assert [house.ask(line, "a") for line in known] == [200] * 3  # they stay


def test_there_are_only_so_many_strangers_of_all_addresses(open_: Open) -> None:
    house = open_(Limits(strangers=2))
    with house.plain(), house.plain(), house.plain() as third:
        assert is_closed(third, seconds=1)


def test_a_stranger_who_is_refused_gives_the_place_back(open_: Open) -> None:
    house = open_(Limits(strangers_each=1))
    for _ in range(3):
        with house.connect() as line:
            line.sendall(
                b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
            )
            assert status(line) == 401
        time.sleep(0.3)


def test_hospitals_have_so_many_connections(open_: Open) -> None:
    house = open_(Limits(connections=2))
    with house.connect() as one, house.connect() as two, house.connect() as three:
        assert (house.ask(one, "a"), house.ask(two, "a")) == (200, 200)
        assert house.ask(three, "a") == 503
        assert house.ask(one, "a") == 200


def test_a_hospital_may_be_silent_longer_than_a_stranger(open_: Open) -> None:
    house = open_(Limits(head_seconds=0.5, idle_seconds=10))
    with house.connect() as line:
        assert house.ask(line, "a") == 200
        time.sleep(1)
        assert house.ask(line, "a", BIG) == 200


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (None, ""),
    ],
)
def test_a_network_is_what_one_customer_has(peer: Any, network: str) -> None:  # noqa: ANN401
    class Writer:
        def get_extra_info(self, name: str) -> Any:  # noqa: ANN401
            return {"peername": peer}[name]

    assert network_of(Writer()) == network  # type: ignore[arg-type]
