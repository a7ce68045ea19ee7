"""What can go wrong between a hospital and its aggregator.

    FleetError
    ├── ConnectionLost       nobody answers, or the line was cut: it may come back
    ├── ServerTrouble        something answers, but not as an aggregator should: it may come back
    │   └── ServerFault      the aggregator failed at one request, and may fail at it again
    ├── CertificateRefused   whoever answers is not the consortium's aggregator
    ├── KeyRefused           the aggregator does not let this hospital in
    ├── ClockDiffers         it does not, because the clocks differ
    ├── RunOver              the run that a message belongs to has ended
    ├── MessageRefused       one message cannot be had, or not be sent; others can
    └── UntestedFlower       the installed Flower is another than this was written for

Each is one line that says what to do. All but the last three pass when their cause does, so the
daemon tries again for ever.
"""

from __future__ import annotations

from fedward.study.errors import FedwardError


class FleetError(FedwardError):
    """The root of all errors between a hospital and its aggregator."""


class ConnectionLost(FleetError):  # noqa: N818 - reads as the fact that it states
    """The aggregator cannot be reached, was cut off, or is silent for too long."""


class ServerTrouble(FleetError):  # noqa: N818
    """The aggregator answers with an error of its own, or with something else than Flower."""


class ServerFault(ServerTrouble):
    """The aggregator failed at one request."""


class CertificateRefused(FleetError):  # noqa: N818
    """The aggregator's certificate does not hold against the consortium's own authority."""


class KeyRefused(FleetError):  # noqa: N818
    """The aggregator does not know this hospital's transport key."""


class ClockDiffers(FleetError):  # noqa: N818
    """This machine's clock is further from the aggregator's than a signed request may be."""


class RunOver(FleetError):  # noqa: N818
    """The run has ended, so that nothing more is taken or given for it."""


class MessageRefused(FleetError):  # noqa: N818
    """One message is incomplete, too large, or not taken by the aggregator."""


class UntestedFlower(FleetError):  # noqa: N818
    """Flower's private parts are used, and only one release of them was tested."""
