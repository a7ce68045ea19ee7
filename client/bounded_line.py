"""A line to one server over TLS, whose answers have bounds in size and time.

Nothing here is Flower's.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator, Mapping

import httpx
from cryptography import x509

from fedward.client.fleet_errors import CertificateRefused, ConnectionLost, MessageRefused
from fedward.client.fleet_trouble import cut, trouble

_LONGEST_CALL = 900.0  # seconds; a line that drips never times out by itself


class BoundedLine:
    """A line that may be used by several threads; redirections are not followed."""

    def __init__(self, address: str, path: str, ca: bytes, timeout: httpx.Timeout) -> None:
        """Nothing is sent yet.

        Args:
            address: `host:port` of the server.
            path: Where the paths of all requests begin, with a slash at both ends.
            ca: The only certificate authority that is trusted, PEM.
            timeout: For connecting, and for each silence of the other side.

        Raises:
            CertificateRefused: The authority is not a certificate in PEM.
        """
        self._address = address
        self._client = httpx.Client(
            base_url=f"https://{address}{path}",
            verify=_trusting(ca, address),
            timeout=timeout,
            follow_redirects=False,
        )
        self._lock = threading.Lock()
        self._under_way = 0
        self._closing = False

    def post(
        self, path: str, content: bytes, headers: Mapping[str, str], most: int
    ) -> tuple[httpx.Response, bytes]:
        """Ask, and read the whole answer, whatever its status.

        Args:
            path: Below the line's own.
            content: The request's body.
            headers: The request's.
            most: Bytes that the answer's body may have.

        Returns:
            The answer, whose status is unchecked, and its body.

        Raises:
            FleetError: There was none, or it is too large, too slow or packed; or this line was
                closed.
        """
        try:
            with (
                self._counted(),
                self._client.stream("POST", path, content=content, headers=headers) as response,
            ):
                return response, self._body(response, most)
        except httpx.TransportError as error:
            raise cut(error, self._address) from error

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._refuse_closed()
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._close_if_quiet()

    def _refuse_closed(self) -> None:
        if self._closing:
            raise ConnectionLost("the line was closed", where=self._address)

    def _close_if_quiet(self) -> None:
        if self._closing and not self._under_way:
            self._client.close()

    def _body(self, response: httpx.Response, most: int) -> bytes:
        """The answer's body, if it comes in time and is not larger than it may be."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise trouble("it answers in a packed form", self._address)
        last = time.monotonic() + _LONGEST_CALL
        pieces, size = [], 0
        for piece in response.iter_raw():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise MessageRefused("an answer is too large", where=self._address)
            if time.monotonic() > last:
                raise ConnectionLost("the line is too slow", where=self._address)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Take no more requests, and close the line once the last one under way has ended.

        The system gives a descriptor that is closed to whatever is opened next: a request that was
        still under way would read from that.
        """
        with self._lock:
            self._closing = True
            self._close_if_quiet()


def _trusting(ca: bytes, address: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        x509.load_pem_x509_certificates(ca)
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ValueError, ssl.SSLError):
        raise CertificateRefused(
            "the consortium's certificate authority is not a certificate in PEM",
            todo="enrol again, or ask the coordinator for the file ca.pem",
            where=address,
        ) from None
    return context
