"""MLflow: a tracking server, asked over its REST interface, version 2.0.

The interface is documented at https://mlflow.org/docs/latest/rest-api.html and has been the same
since MLflow 1. MLflow's own client is not used: it wants other versions of packages than Flower.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from fedward.server.tracked_values import Point
from fedward.server.tracking import About, Ending, TrackerAway, TrackerRefused

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_MOST = {"metrics": 1000, "params": 100, "tags": 100}  # of one request, as the server has it
_LARGEST = 1 << 20  # bytes of an answer
_SECONDS = 10.0  # that a server may be silent
_KEY = "fedward.key"
_ABSENT = "RESOURCE_DOES_NOT_EXIST"


class Mlflow:
    """A run on a tracking server.

    Args:
        address: `http://` or `https://`, host, perhaps port and path; no secret in it.
        auth: The `Authorization` header's value; None for a server that wants none.
    """

    def __init__(self, address: str, auth: str | None = None) -> None:
        self.label = f"MLflow at {address}"
        self._base = f"{address.rstrip('/')}/api/2.0/mlflow"
        self._headers = {} if auth is None else {"Authorization": auth}
        self._beyond = not is_this_machine(urlsplit(address).hostname or "")
        self._run, self._key = "", secrets.token_hex(16)

    def begin(self, about: About) -> None:
        """Make the experiment, named as the study, and a run in it; or go on with an earlier."""
        if not self._run:
            experiment = self._experiment(about.study)
            key = re.sub(r"[^\w.-]", "_", about.key or self._key)  # it stands in quotes
            found = self._earlier(experiment, key)  # perhaps made by a request without an answer
            self._run = found or self._created(experiment, about.name, key)
        self._post("runs/update", {"run_id": self._run, "status": "RUNNING"})
        self._log("params", _pairs(about.settings))
        self.tags(about.tags)

    def points(self, points: Sequence[Point]) -> None:
        """Metrics."""
        values = [
            {"key": p.name, "value": p.value, "timestamp": int(p.at * 1000), "step": p.step}
            for p in points
        ]
        self._log("metrics", values)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tags."""
        self._log("tags", _pairs(tags))

    def end(self, how: Ending) -> None:
        """The run's status."""
        values = {"run_id": self._run, "status": _STATUS[how], "end_time": _now()}
        self._post("runs/update", values)

    def _experiment(self, name: str) -> str:
        asked = {"experiment_name": name}
        try:
            found = self._get("experiments/get-by-name", asked)
        except _Absent:
            return str(self._post("experiments/create", {"name": name})["experiment_id"])
        return str(found["experiment"]["experiment_id"])

    def _earlier(self, experiment: str, key: str) -> str | None:
        asked = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{_KEY}` = '{key}'",
            "max_results": 1,
        }
        found = self._post("runs/search", asked).get("runs") or []
        return str(found[0]["info"]["run_id"]) if found else None

    def _created(self, experiment: str, name: str, key: str) -> str:
        values = {
            "experiment_id": experiment,
            "run_name": name,
            "start_time": _now(),
            "tags": _pairs({_KEY: key}),
        }
        return str(self._post("runs/create", values)["run"]["info"]["run_id"])

    def _log(
        self, what: Literal["metrics", "params", "tags"], values: list[dict[str, Any]]
    ) -> None:
        for start in range(0, len(values), _MOST[what]):
            some = values[start : start + _MOST[what]]
            self._post("runs/log-batch", {"run_id": self._run, what: some})

    def _get(self, path: str, asked: dict[str, str]) -> dict[str, Any]:
        return self._asked("GET", path, params=asked)

    def _post(self, path: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._asked("POST", path, json=values)

    def _asked(self, method: str, path: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """An answer; redirects are not followed: the token is for this server.

        Raises:
            TrackerAway: The server is not there, or has trouble of its own.
            TrackerRefused: It does not take this, or what answers is no MLflow.
        """
        content = b""
        try:
            with (
                # A proxy of the environment would see what is for this machine only.
                httpx.Client(
                    timeout=_SECONDS, headers=self._headers, trust_env=self._beyond
                ) as client,
                client.stream(method, f"{self._base}/{path}", **more) as answer,
            ):
                for block in answer.iter_bytes():
                    content += block
                    if len(content) > _LARGEST:
                        raise TrackerRefused("the answer is larger than 1 MiB: is it MLflow?")
        except httpx.HTTPError as error:
            raise TrackerAway(f"{type(error).__name__}: {error}") from None
        code = answer.status_code
        found = _document(content)
        if code == 200 and found is not None:
            return found
        said = "" if found is None else f": {str(found.get('message', ''))[:200]}"
        if found is not None and found.get("error_code") == _ABSENT:
            raise _Absent(f"{path}: {code}{said}")
        if code in {408, 429} or code >= 500:
            raise TrackerAway(f"{path}: {code}{said}")
        if code in {401, 403}:
            raise TrackerRefused(f"{path}: {code}, token or password are missing or wrong")
        raise TrackerRefused(f"{path}: {code}{said}")


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Absent(TrackerRefused):
    """What was asked for is not there."""


def _document(content: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _pairs(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _now() -> int:
    return int(time.time() * 1000)
