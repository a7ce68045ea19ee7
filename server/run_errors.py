"""Ways in which a run ends before its last round and can go on later, from where it was.

FederationError
├── RunPaused         it waits for a person: too few hospitals, a refusal, a full disk
└── RunStopped        a person stopped it
"""

from __future__ import annotations

from fedward.study.errors import FederationError


class RunPaused(FederationError):  # noqa: N818 - reads as the fact that it states
    """The run cannot go on by itself; nothing is lost, and it can be resumed."""


class RunStopped(FederationError):  # noqa: N818 - reads as the fact that it states
    """The run was stopped on purpose; nothing is lost, and it can be resumed."""
