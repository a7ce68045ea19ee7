"""Why a party of the secure aggregation protocol goes no further.

    RefusedError
    └── ProtocolError     the protocol cannot go on here
        ├── BadSignature  a signature is not the named identity's
        ├── BadCertificate  a certificate that proves nothing, or may not be given
        ├── BadAdvert     a run key that cannot be trusted
        ├── BadShare      shares that rebuild no secret
        ├── BadSeal       a sealed share that does not open
        ├── Replayed      a question that was answered before
        ├── TooFew        fewer hospitals than a sum may contain
        └── BadRequest    a message that does not hold together

What comes from outside gets exactly one of these for each primitive, with a message that says
nothing about a secret; what only a programmer can get wrong is a ValueError.
"""

from __future__ import annotations

from fedward.study.errors import RefusedError


class ProtocolError(RefusedError):
    """The protocol cannot go on here: somebody lied, failed, or runs another version."""


class BadSignature(ProtocolError):  # noqa: N818 - reads as the fact that it states
    """A signature was not made by the identity that it names, over this message and purpose."""


class BadCertificate(ProtocolError):  # noqa: N818
    """A certificate, or a request for one, is malformed, expired, for another host or key."""


class BadAdvert(ProtocolError):  # noqa: N818
    """An advert is malformed, forged, of another study or run, or its key is no usable point."""


class BadShare(ProtocolError):  # noqa: N818
    """Shares are malformed, contradict each other, are too few, or rebuild nothing in range."""


class BadSeal(ProtocolError):  # noqa: N818
    """A sealed share was altered, cut, made with another key, or bound to something else."""


class Replayed(ProtocolError):  # noqa: N818
    """A round and attempt were asked for before, or a sum was asked for in a second way."""


class TooFew(ProtocolError):  # noqa: N818
    """Fewer hospitals take part, or survived, than a revealed sum must contain."""


class BadRequest(ProtocolError):  # noqa: N818
    """A message of the protocol, or the roster, is malformed or contradicts itself."""
