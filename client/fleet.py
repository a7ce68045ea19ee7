"""A hospital's line to its aggregator: Flower's Fleet API, and nothing else of Flower.

Every private name of Flower that the hospital's side needs stands here and in `letter.py`, tested
on 1.41.
Of the twelve requests of that API it makes seven. It never asks for a run's app bundle, which would
be code from the server, so nothing but what is installed here can run here.

A message travels as a `Letter` (`letter.py`). An aggregator that puts short messages into their
announcements gets short answers in the same way: one request, which it waits for, instead of four.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.message import Message as Protobuf

from fedward.client.bounded_line import BoundedLine
from fedward.client.fleet_errors import (
    ConnectionLost,
    FleetError,
    KeyRefused,
    MessageRefused,
    RunOver,
    ServerFault,
    UntestedFlower,
)
from fedward.client.fleet_trouble import key_refused, refused, trouble
from fedward.client.letter import Letter, from_announcement, names_in, waited_for, with_content
from fedward.client.messages_under_way import Coming, Faults, Going
from fedward.client.signed_time import Signed, SignedTime
from fedward.privacy.public_file import write_public
from fedward.study.errors import DataError

TESTED = "1.41"
HEARTBEAT_SECONDS = 15.0  # after twice this without one, the aggregator counts a hospital as gone
CLOCK_TOLERANCE = (SYSTEM_TIME_TOLERANCE + TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE) / 2

# A signed time may be at most 5 s ahead of the aggregator's clock but 305 s behind it. Signing a
# time in the past puts an honest clock into the middle, where it may err by 155 s either way.
_BACKDATED = CLOCK_TOLERANCE - SYSTEM_TIME_TOLERANCE

_PATH = "/v1/fleet/"
_TIMEOUT = httpx.Timeout(connect=10.0, read=30.0, write=30.0, pool=30.0)
_LARGEST_OBJECT = 2**26  # bytes; ours have 8 MiB, and a stock Flower's less
_LARGEST_ANSWER = 2**24  # bytes of any answer but an object
_LINES = 4  # objects on their way at once
_LOOKED_AT = 10.0  # seconds in which the server's side looks at an answer, usually
_PATIENCE = 120.0  # seconds for an object that the server announced and does not have yet
_LEAST_PAUSE, _LONGEST_PAUSE = 0.06, 1.0  # seconds until such an object is asked for again

Response = TypeVar("Response", bound=Protobuf)


def refuse_untested_flower() -> None:
    """Private names may mean something else in another release.

    Raises:
        UntestedFlower: The installed Flower is not 1.41.
    """
    found = importlib.metadata.version("flwr")
    if not found.startswith(f"{TESTED}."):
        raise UntestedFlower(
            f"flwr {found} is installed, but this was tested with {TESTED}",
            todo=f"install flwr {TESTED}",
        )


class FleetConnection:
    """The line of one hospital to one aggregator; it may be cut and taken up again.

    All methods but `heartbeat` belong to one thread. Proxies are taken from the environment
    (`HTTPS_PROXY`); TLS goes through them to the aggregator, and redirections are not followed.
    """

    def __init__(
        self,
        address: str,
        ca: bytes,
        key: ec.EllipticCurvePrivateKey,
        *,
        node: Path | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: `host:port` of the aggregator.
            ca: The consortium's own certificate authority, PEM; no other is trusted.
            key: This hospital's transport key, P-384, known to the aggregator.
            node: File that remembers Flower's number of this hospital, so that a daemon that was
                killed need not wait until the aggregator has noticed.
            now: Gives the seconds since 1970 that requests are signed with.
            clock: Gives seconds from any start; it says for how long a message has failed.
            timeout: For connecting, and for each silence of the other side.

        Raises:
            CertificateRefused: The authority is not a certificate in PEM.
            UntestedFlower: The installed Flower is not 1.41.
        """
        refuse_untested_flower()
        self.address = address
        self._public = key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self._now = now
        self._clock = clock
        self._time = SignedTime(key, now, tolerance=CLOCK_TOLERANCE, backdated=_BACKDATED)
        self._known_by = _known_by(self._public)
        self._line = BoundedLine(address, _PATH, ca, timeout)
        self._lines = ThreadPoolExecutor(_LINES, thread_name_prefix="fleet")
        self._remembered = node
        self._node = _remembered(node)
        self._coming: Coming | None = None
        self._cut_off: Going | None = None
        # The last question that came inside its announcement.
        self._announced_whole: str | None = None
        self._unconfirmed: tuple[int, str] | None = None
        self._sent = -_LOOKED_AT

    def activate(self) -> int:
        """Say that this hospital is here; needed once, and after every error.

        Returns:
            Flower's number of this hospital.

        Raises:
            FleetError: It cannot be reached, or does not let this hospital in.
        """
        if self._node is not None:
            # Who still counts as here cannot be activated again, but just goes on.
            try:
                self.heartbeat()
            except (KeyRefused, RunOver, MessageRefused):  # it knows no such number any more
                self._node = None
            else:
                return int(self._node.node_id)
        asked = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        answer = self._call("activate-node", asked, ActivateNodeResponse)
        self._node = Node(node_id=answer.node_id)
        if self._remembered is not None:
            with contextlib.suppress(DataError):  # on a full disk it is not remembered
                write_public(self._remembered, f"{answer.node_id}\n".encode())
        return int(answer.node_id)

    def heartbeat(self) -> None:
        """Say that this hospital is still here; may be called from another thread.

        Raises:
            FleetError: Nobody heard it, or the aggregator does not know this hospital any more.
        """
        asked = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        if not self._call("send-node-heartbeat", asked, SendNodeHeartbeatResponse).success:
            raise key_refused(self.address)

    def receive(self) -> Letter | None:
        """The next message for this hospital, whole, or None.

        A message whose transfer was cut is taken up again by the next call: the aggregator
        announces each only once. What comes inside its announcement is lost if that is cut.

        Raises:
            RunOver: A message was there, but its run has ended.
            MessageRefused: A message was there, but is incomplete, too large, or not what it says.
            FleetError: The line is cut; activate it again.
        """
        if self._coming is None:
            answer = self._ask()
            if not answer.messages_list or not answer.message_object_trees:
                return None
            head, tree = answer.messages_list[0], answer.message_object_trees[0]
            if head.content.items:
                self._announced_whole = head.metadata.message_id
                if not tree.children:
                    return self._read_announced(head)
                head.content.Clear()  # its objects come too, and say the same
                head.content.SetInParent()
            self._coming = Coming(
                int(head.metadata.run_id),
                head.SerializeToString(),
                tree.SerializeToString(),
                names_in(tree),
                self._faults(),
                over=self._clock() + waited_for(head),
            )
        try:
            with self._given_up(self._coming.faults):
                letter = self._fetch(self._coming)
        except (RunOver, MessageRefused):
            self._coming = None
            raise
        except FleetError as error:
            if self._clock() < self._coming.over:
                raise
            self._coming = None
            raise MessageRefused(
                f"a message did not come before its time was over ({error.what})",
                todo="the round goes on without it",
                where=self.address,
            ) from error
        self._coming = None
        return letter

    def _read_announced(self, head: MessageProto) -> Letter:
        """A question from its announcement.

        It is confirmed when the next one comes: its root comes later than its announcement, and a
        SuperLink that forgot the question before keeps a note of that root for ever.

        Raises:
            MessageRefused: It is not what it says.
        """
        if self._unconfirmed is not None:
            self._lines.submit(self._confirm, *self._unconfirmed)
        self._unconfirmed = int(head.metadata.run_id), str(head.metadata.message_id)
        letter = from_announcement(head)
        letter.refuse_forged()
        return letter

    def _ask(self) -> PullMessagesResponse:
        asked = PullMessagesRequest(node=self._node)
        try:
            return self._call("pull-messages", asked, PullMessagesResponse)
        except MessageRefused as error:  # it is about no message, and the next try meets it too
            raise trouble(error.what, self.address) from error

    def _fetch(self, coming: Coming) -> Letter:
        self._each(lambda name: self._pull(coming, name), coming.missing())
        self._lines.submit(self._confirm, coming.run, coming.digest)
        letter = coming.letter()
        letter.refuse_forged()
        return letter

    def _confirm(self, run: int, name: str) -> None:
        """Let the aggregator forget a message; nobody waits for it, and it matters to no one else.

        What goes wrong here, the next request meets again.
        """
        received = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run, message_object_id=name
        )
        self._call("confirm-message-received", received, ConfirmMessageReceivedResponse)

    def _pull(self, coming: Coming, name: str) -> None:
        asked = PullObjectRequest(node=self._node, run_id=coming.run, object_id=name)
        began = time.monotonic()
        while True:
            count = coming.count
            answer = self._call("pull-object", asked, PullObjectResponse, most=_LARGEST_OBJECT)
            if answer.object_available:
                coming.take(name, bytes(answer.object_content))
                return
            waited = time.monotonic() - began
            if not answer.object_found or waited > _PATIENCE:
                raise MessageRefused(
                    "a message came without all of its parts",
                    todo="the round goes on without it",
                    where=self.address,
                )
            # The server announces a message before it has all of it; one part seldom comes alone.
            pause = min(max(_LEAST_PAUSE, waited / 4), _LONGEST_PAUSE)
            coming.await_more(count, pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    def send(self, letter: Letter, seconds: float = 0.0) -> None:
        """Give an answer; after an error, the same answer may be given again.

        Args:
            letter: From `pack` or `reply_to`.
            seconds: How long it took to find, for the aggregator's statistics.

        Raises:
            RunOver: Its run has ended.
            MessageRefused: The aggregator does not take this answer.
            FleetError: The line is cut; activate it, and send again.
        """
        head, tree = MessageProto.FromString(letter.head), ObjectTree.FromString(letter.tree)
        whole = head.metadata.reply_to_message_id == self._announced_whole and letter.short
        asked = PushMessagesRequest(
            node=self._node,
            messages_list=[with_content(letter) if whole else head],
            message_object_trees=[ObjectTree(object_id=letter.digest) if whole else tree],
            clientapp_runtime_list=[seconds],
        )
        if self._cut_off is None or self._cut_off.digest != letter.digest:
            self._cut_off = Going(letter.digest, self._faults())
        with self._given_up(self._cut_off.faults):
            self._send(asked, letter, self._cut_off, whole=whole)
        self._cut_off = None
        self._sent = time.monotonic()

    def _send(
        self, asked: PushMessagesRequest, letter: Letter, going: Going, *, whole: bool
    ) -> None:
        again, going.begun = going.begun, True
        answer = self._call("push-messages", asked, PushMessagesResponse)
        wanted = [name for name in dict.fromkeys(answer.objects_to_push) if name in letter.objects]
        if not again and not wanted:  # of one that it takes it lacks the root at least
            raise MessageRefused(
                "the aggregator takes this answer no more: it came too late", where=self.address
            )
        if whole:  # it has all of it; with the root it can close its books
            for name in wanted:
                self._lines.submit(self._stored, letter, name, answer.session_id)
        elif not wanted:
            # It was told of this answer before the line was cut, and does not say again what it
            # lacks. It would wait for that, and all hospitals with it, until it gives up.
            left = [name for name in letter.objects if name not in going.stored]
            self._each_then_root(lambda name: self._push_again(letter, name), letter, left)
        else:
            self._each_then_root(
                lambda name: self._push(letter, name, answer.session_id, going), letter, wanted
            )

    @contextlib.contextmanager
    def _given_up(self, faults: Faults) -> Iterator[None]:
        """One message, which must not keep all others waiting if the aggregator cannot take it."""
        try:
            yield
        except ServerFault as error:
            hopeless = faults.another(self._number, self._clock())
            if hopeless is None:
                raise
            what, todo = hopeless
            raise MessageRefused(
                f"{what}, which is given up", todo=todo, where=self.address
            ) from error

    @property
    def _number(self) -> int:
        return 0 if self._node is None else int(self._node.node_id)

    def _faults(self) -> Faults:
        return Faults(self._number)

    def _each_then_root(
        self, push: Callable[[str], None], letter: Letter, names: Sequence[str]
    ) -> None:
        """Push these objects; the aggregator takes a message for whole once its root is there."""
        self._each(push, [name for name in names if name != letter.digest])
        self._each(push, [name for name in names if name == letter.digest])

    def _push(self, letter: Letter, name: str, session: str, going: Going) -> None:
        if not self._stored(letter, name, session):
            raise ConnectionLost(
                "the aggregator lost the thread of an answer",
                todo="it is sent again",
                where=self.address,
            )
        going.stored.add(name)

    def _push_again(self, letter: Letter, name: str) -> None:
        """Push what the aggregator may have by now: without a session it finds out itself."""
        self._stored(letter, name, "")

    def _stored(self, letter: Letter, name: str, session: str) -> bool:
        asked = PushObjectRequest(
            node=self._node,
            run_id=letter.run,
            object_id=name,
            object_content=letter.objects[name],
            session_id=session,
        )
        return bool(self._call("push-object", asked, PushObjectResponse).stored)

    def close(self) -> None:
        """Say good-bye, if anybody hears it, and close the line.

        After an answer there is no good-bye: the aggregator throws an answer away that it has not
        looked at when its sender is gone, and notices by the heartbeat anyway.
        """
        if self._node is not None and time.monotonic() - self._sent > _LOOKED_AT:
            try:
                asked = DeactivateNodeRequest(node_id=self._node.node_id)
                self._call("deactivate-node", asked, DeactivateNodeResponse)
            except FleetError:
                pass  # it notices by the missing heartbeat
        self._node = None
        self._lines.shutdown(wait=False, cancel_futures=True)
        self._line.close()

    def _each(self, work: Callable[[str], None], names: Sequence[str]) -> None:
        """Do it for every name, several at once; the first error ends it when all are quiet."""
        if len(names) == 1:
            work(names[0])
            return
        running: list[Future[None]] = [self._lines.submit(work, name) for name in names]
        errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _call(
        self, path: str, asked: Protobuf, kind: type[Response], *, most: int = _LARGEST_ANSWER
    ) -> Response:
        signed = self._time.signed()
        response, body = self._line.post(
            path, asked.SerializeToString(), self._headers(signed), most + 1024
        )
        if response.status_code != httpx.codes.OK:
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._time.follow(response)
            # By the time that was signed: one that was put right is not to blame for a refusal.
            signed_by = self._now() - signed.ahead
            raise refused(response, self.address, now=signed_by, tolerance=CLOCK_TOLERANCE)
        answer: Response = kind()
        try:
            answer.ParseFromString(body)
        except DecodeError:
            raise trouble("it answers with something else than Flower", self.address) from None
        return answer

    def _headers(self, signed: Signed) -> dict[str, str]:
        return {
            **self._known_by,
            TIMESTAMP_HEADER: signed.said,
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signed.signature).decode("ascii"),
        }


def _known_by(public: bytes) -> dict[str, str]:
    """Headers that are the same in every request."""
    versions = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
    return {
        **{name: str(value) for name, value in versions},
        "content-type": PROTOBUF_MEDIA_TYPE,
        "accept": PROTOBUF_MEDIA_TYPE,
        "accept-encoding": "identity",
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public).decode("ascii"),
    }


def _remembered(file: Path | None) -> Node | None:
    try:
        return None if file is None else Node(node_id=int(file.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return None
