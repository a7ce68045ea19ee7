"""What is asked of a running SuperLink over its Control API: its hospitals' keys and its runs.

Flower's private names that stand here were read in the version that `superlink.py` tells.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import httpx
import tomli_w
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedward.privacy.transport import transport_pem
from fedward.server.lost_rounds import DEPLOYED
from fedward.study.errors import ServiceError

_GONE = "unregistered"


class SuperLinkSilent(ServiceError):  # noqa: N818 - reads as the fact that it states
    """The SuperLink does not answer, so nobody knows whether it did what was asked."""


RunState = Literal["waiting", "running", "completed", "failed", "stopped"]


@dataclass(frozen=True)
class Node:
    """A hospital as the SuperLink knows it.

    Attributes:
        number: Given by the SuperLink.
        key: Public transport key, EC P-384, SubjectPublicKeyInfo in DER.
        name: As in the roster; empty if the SuperLink was not told.
        online: Whether it gave a sign of life lately.
    """

    number: int
    key: bytes
    name: str
    online: bool


def app_bundle() -> bytes:
    """The app bundle of every run: a pyproject.toml that names installed code, and nothing else."""
    project = {
        "project": {
            "name": "fedward",
            "version": version("fedward"),
            "description": "Names installed code only.",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fedward",
                    "components": {
                        "serverapp": "fedward.server.app:app",
                        "clientapp": "fedward.client.app:app",
                    },
                    "config": {
                        **{"folder": "", "repeats": DEPLOYED.repeats},
                        **{"wait_seconds": DEPLOYED.wait_seconds, "tracking": ""},
                        **{"study": "", "hospitals": "", "out": "", "seed": 0, "models": ""},
                    },
                }
            }
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, of the way it uses pathspec
        return build_fab_from_files({"pyproject.toml": tomli_w.dumps(project).encode()})[0]


class SuperLinkControl:
    """The Control API of one SuperLink, whose process may be started again and again."""

    def __init__(self) -> None:
        """No process runs yet."""
        self._client: ControlHttpClient | None = None

    def open(self, address: str, certificate: bytes) -> None:
        """Ask the process that was just started.

        Args:
            address: `host:port` of it, on loopback.
            certificate: The only one that is trusted, PEM.
        """
        self._client = _LoopbackClient.from_server_address(
            address,
            insecure=False,
            root_certificates=certificate,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        """Ask it no longer; nothing happens if there is none."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def register(self, name: str, key: bytes) -> int:
        """Let a hospital in.

        Args:
            name: As in the roster, for people who read the SuperLink's lists.
            key: Public transport key, EC P-384, SubjectPublicKeyInfo in DER.

        Returns:
            The number that the SuperLink gave it.

        Raises:
            ServiceError: The SuperLink refused the key, or does not answer.
        """
        answer = self._ask("RegisterNode", RegisterNodeRequest(public_key=_pem(key), name=name))
        return int(answer.node_id)

    def remove(self, number: int) -> None:
        """Let a hospital in no longer.

        Raises:
            ServiceError: There is no such node, or the SuperLink does not answer.
        """
        self._ask("UnregisterNode", UnregisterNodeRequest(node_id=number))

    def nodes(self) -> list[Node]:
        """Every hospital that may come in.

        Raises:
            ServiceError: The SuperLink does not answer.
        """
        answer = self._ask("ListNodes", ListNodesRequest())
        return [
            Node(int(node.node_id), _der(node.public_key), node.name, node.status == "online")
            for node in answer.nodes_info
            if node.status != _GONE
        ]

    def start_run(self, config: Mapping[str, str | int | float]) -> int:
        """Start the installed apps.

        Args:
            config: The run's configuration: `folder`, `repeats`, `wait_seconds` and `tracking`, or
                `study`, `hospitals`, `out` and `seed`.

        Returns:
            The run's number.

        Raises:
            ServiceError: The SuperLink refused the configuration, or does not answer.
        """
        bundle = app_bundle()
        request = StartRunRequest(
            fab=fab_to_proto(Fab("", bundle, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        answer = self._ask("StartRun", request)
        if not answer.HasField("run_id"):
            raise ServiceError("the SuperLink started no run", todo="look into its log")
        return int(answer.run_id)

    def stop_run(self, number: int) -> None:
        """End a run at once; nothing happens if it has ended.

        Raises:
            ServiceError: There is no such run, or the SuperLink does not answer.
        """
        if self.run_state(number)[0] in {"waiting", "running"}:
            self._ask("StopRun", StopRunRequest(run_id=number))

    def run_state(self, number: int) -> tuple[RunState, str]:
        """How a run stands, and why it ended if it failed.

        Raises:
            ServiceError: There is no such run, or the SuperLink does not answer.
        """
        found = self._states(ListRunsRequest(run_id=number))
        if number not in found:
            raise ServiceError(f"the SuperLink knows no run {number}", todo="look into its log")
        return found[number]

    def runs(self) -> dict[int, tuple[RunState, str]]:
        """The newest runs, at most 200, by number.

        Raises:
            ServiceError: The SuperLink does not answer.
        """
        return self._states(ListRunsRequest(limit=200))

    def _states(self, request: ListRunsRequest) -> dict[int, tuple[RunState, str]]:
        answer = self._ask("ListRuns", request)
        return {int(number): _state(run.status) for number, run in answer.run_dict.items()}

    def _ask(self, call: str, request: object) -> Any:  # noqa: ANN401 - protobuf's own classes
        if self._client is None:
            raise SuperLinkSilent("the SuperLink does not run", todo="start the aggregator")
        try:
            return getattr(self._client, call)(request)
        except httpx.HTTPStatusError as error:
            said = " ".join(error.response.text.split())
            raise ServiceError(
                f"the SuperLink refused {call} ({error.response.status_code} {said:.300})",
                todo="look into its log",
            ) from None
        except (httpx.HTTPError, ValueError) as error:
            raise SuperLinkSilent(
                f"the SuperLink does not answer {call} ({type(error).__name__})",
                todo="look into its log",
            ) from None


class _LoopbackClient(ControlHttpClient):
    """Flower's client, which would send loopback requests through a proxy of the environment."""

    def __init__(
        self,
        base_url: str,
        *,
        verify: ssl.SSLContext | bool | str = True,
        timeout: float = 30.0,
        **others: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(base_url, verify=verify, timeout=timeout, **others)
        self._client.close()
        self._client = httpx.Client(verify=verify, timeout=timeout, trust_env=False)


def _state(status: Any) -> tuple[RunState, str]:  # noqa: ANN401 - protobuf's own class
    states: dict[str, RunState] = {
        "pending": "waiting",
        "starting": "waiting",
        "running": "running",
        "completed": "completed",
        "stopped": "stopped",
        "failed": "failed",
    }
    found = status.sub_status if status.status == "finished" else status.status
    return states.get(found, "failed"), str(status.details)


def _pem(key: bytes) -> bytes:
    """A public transport key in the one form that Flower knows it by.

    Raises:
        ServiceError: It is no EC P-384 key in DER.
    """
    try:
        return transport_pem(key)
    except ValueError:
        raise ServiceError(
            "a hospital's transport key is no EC P-384 key", todo="ask for its enrolment again"
        ) from None


def _der(key: bytes) -> bytes:
    return load_pem_public_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
