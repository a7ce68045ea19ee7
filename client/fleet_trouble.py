"""What a request to the aggregator that failed means: a transport error or a status, as one error.

Nothing here is Flower's but the meaning of the statuses.
"""

from __future__ import annotations

import email.utils
import ssl
from collections.abc import Iterator

import httpx

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
)

MOST_FOLLOWED = 86400.0
"""Seconds that a clock may differ by and still be put right by the aggregator's."""


def refused(response: httpx.Response, address: str, *, now: float, tolerance: float) -> FleetError:
    """What an answer means that is none.

    Args:
        response: With another status than 200.
        address: Of the aggregator.
        now: Seconds since 1970, by the clock that the request was signed by.
        tolerance: Seconds that the two clocks may differ by.
    """
    status = response.status_code
    if status == httpx.codes.UNAUTHORIZED:
        differs = _clock_differs(response, address, now=now, tolerance=tolerance)
        return differs or key_refused(address)
    if status == httpx.codes.PRECONDITION_FAILED:
        return key_refused(address)
    if status == httpx.codes.FORBIDDEN:
        return RunOver("this run has ended", where=address)
    if status in (httpx.codes.BAD_REQUEST, 413, 422):
        return MessageRefused(f"it refuses a message (HTTP {status})", where=address)
    kind = ServerFault if status == httpx.codes.INTERNAL_SERVER_ERROR else ServerTrouble
    return trouble(f"it answers with HTTP {status}", address, kind)


def _clock_differs(
    response: httpx.Response, address: str, *, now: float, tolerance: float
) -> ClockDiffers | None:
    ahead = clock_ahead(response, now)
    if ahead is None or abs(ahead) < tolerance - 1:  # the header has whole seconds
        return None
    followed = "; until then the aggregator's time is used" if abs(ahead) <= MOST_FOLLOWED else ""
    return ClockDiffers(
        f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} "
        f"the aggregator's, and only {tolerance:.0f} s are tolerated",
        todo=f"set it, best by NTP on both machines{followed}",
        where=address,
    )


def clock_ahead(response: httpx.Response, now: float) -> float | None:
    """Seconds that this machine's clock is ahead of the answering one; None if it says no time."""
    try:
        theirs = email.utils.parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return None
    return now - theirs.timestamp()


def cut(error: BaseException, address: str) -> FleetError:
    """What a transport error means; its cause may be hidden several errors deep."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"its certificate is not good ({cause.verify_message})",
                todo="check the address, ca.pem and this machine's clock, or ask the coordinator",
                where=address,
            )
    if any(isinstance(cause, ssl.SSLError) and "EOF" not in str(cause) for cause in causes):
        return CertificateRefused(
            "what answers there does not speak TLS as an aggregator does",
            todo="check the address, or ask the coordinator",
            where=address,
        )
    if isinstance(error, httpx.TimeoutException):
        return ConnectionLost(
            "it does not answer", todo="nothing: it is tried again", where=address
        )
    what = "it cannot be reached" if isinstance(error, httpx.ConnectError) else "the line was cut"
    return ConnectionLost(
        f"{what} ({str(error) or type(error).__name__})",
        todo="nothing: it is tried again",
        where=address,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def key_refused(address: str) -> KeyRefused:
    """The error for a hospital that is not let in."""
    return KeyRefused(
        "it does not let this hospital's transport key in",
        todo="wait a minute if it has just been stopped, else ask whether the aggregator's roster "
        "has it",
        where=address,
    )


def trouble(what: str, address: str, kind: type[ServerTrouble] = ServerTrouble) -> ServerTrouble:
    """The error for something that answers, but not as an aggregator should."""
    return kind(what, todo="tell whoever runs the aggregator if it stays", where=address)
