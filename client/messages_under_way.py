"""Messages on their way between the aggregator and this hospital, whose transfer may be cut.

Nothing here is Flower's.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedward.client.fleet_errors import MessageRefused
from fedward.client.letter import LARGEST_LETTER, Letter

_MOST_OBJECTS = 100_000
_MOST_FAULTS = 5  # at one message, and no fewer seconds than these, which one that is just being
_FAULTY_SECONDS = 60.0  # started anew may need; an aggregator may fail at one message for ever


@dataclass
class Faults:
    """How the aggregator failed at one message so far.

    Attributes:
        node: Number that it knew this hospital by when the message was begun; it gives another
            one only if it lost its state.
        count: How often it failed.
        since: When it first did, by the line's clock.
    """

    node: int
    count: int = 0
    since: float | None = None

    def another(self, node: int, now: float) -> tuple[str, str] | None:
        """Count one more; the message is given up where nothing better is to be expected.

        An aggregator that lost its state knows this hospital by another number, and its old
        messages not at all: they are given up at once. One that is just being started gets its
        time.

        Args:
            node: Number that the aggregator knows this hospital by now.
            now: Seconds, by the line's clock.

        Returns:
            What happened and what to do, if the message is to be given up.
        """
        self.count += 1
        if self.since is None:
            self.since = now
        passed = now - self.since
        if node != self.node:
            return "the aggregator has forgotten a message: it lost its state", "nothing"
        if self.count >= _MOST_FAULTS and passed >= _FAULTY_SECONDS:
            what = f"the aggregator failed {self.count} times in {passed:.0f} s at one message"
            return what, "tell whoever runs it"
        return None


@dataclass
class Going:
    """An answer on its way.

    Attributes:
        digest: Of the answer.
        faults: How the aggregator failed at it so far.
        begun: Whether the aggregator may have been told of it.
        stored: Names of the objects that it has for certain.
    """

    digest: str
    faults: Faults
    begun: bool = False
    stored: set[str] = field(default_factory=set)


class Coming:
    """A message that was announced, and as much of it as has come."""

    def __init__(
        self,
        run: int,
        head: bytes,
        tree: bytes,
        names: Sequence[str],
        faults: Faults,
        *,
        over: float = math.inf,
    ) -> None:
        """Nothing of it has come yet.

        Args:
            run: Flower's number of the run.
            head: The message without its content, as in a letter.
            tree: Which object hangs below which, as in a letter.
            names: Its objects, each once, in the order in which they reach the aggregator.
            faults: How the aggregator failed at it so far.
            over: When its answer is waited for no more, by the line's clock.
        """
        self.run = run
        self.faults = faults
        self.over = over
        self._closed = Letter(head, tree, {})
        self._names = names
        self._found: dict[str, bytes] = {}
        self._size = 0
        self._come = threading.Condition()

    @property
    def digest(self) -> str:
        """SHA-256 that the message is announced by."""
        return self._closed.digest

    def missing(self) -> list[str]:
        """Names of the objects that have not come.

        Raises:
            MessageRefused: The message has too many.
        """
        if len(self._names) > _MOST_OBJECTS:
            raise MessageRefused(f"a message of {len(self._names)} parts is too large")
        return [name for name in self._names if name not in self._found]

    def take(self, name: str, content: bytes) -> None:
        """Keep an object that came; may be called from several threads.

        Raises:
            MessageRefused: It is not the one that its name says, or the message is too large.
        """
        if hashlib.sha256(content).hexdigest() != name:
            raise MessageRefused("a message came with a part that is not the one it names")
        with self._come:
            self._size += len(content)
            if self._size > LARGEST_LETTER:
                raise MessageRefused(f"a message of {self._size} bytes is too large")
            self._found[name] = content
            self._come.notify_all()

    @property
    def count(self) -> int:
        """How many objects have come."""
        return len(self._found)

    def await_more(self, than: int, seconds: float) -> None:
        """Return once more than so many objects have come, or that much later."""
        with self._come:
            self._come.wait_for(lambda: self.count > than, seconds)

    def letter(self) -> Letter:
        """The whole message, when nothing is missing."""
        found = {name: self._found[name] for name in self._names}
        return Letter(self._closed.head, self._closed.tree, found)
