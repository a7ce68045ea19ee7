"""`tensorboard:FOLDER` and `mlflow:URI`, as `--track` and `aggregator.toml` name trackers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fedward.privacy.key_file import read_secret
from fedward.server.mlflow_tracker import Mlflow, is_this_machine
from fedward.server.tracking import Tracker
from fedward.study.errors import MissingExtra, OptionError

_TODO = "give tensorboard:FOLDER or mlflow:https://HOST"


@dataclass(frozen=True)
class Targets:
    """Trackers as `aggregator.toml` names them, and as its runs' processes are told of them.

    Attributes:
        to: Each `tensorboard:FOLDER` or `mlflow:URI`.
        folder: What relative folders are relative to.
        token: Path of MLflow's token; None for a server that wants none.
    """

    to: tuple[str, ...]
    folder: str
    token: str | None = None

    def document(self) -> str:
        """For a run's configuration; empty if there are no trackers."""
        return json.dumps([self.to, self.folder, self.token]) if self.to else ""

    @classmethod
    def parse(cls, document: str) -> Targets:
        """What `document` gave."""
        if not document:
            return cls((), "")
        to, folder, token = json.loads(document)
        return cls(tuple(to), folder, token)

    def trackers(self) -> list[Tracker]:
        """The trackers themselves; none of them is asked anything yet.

        Raises:
            OptionError: As `trackers_of`, and for a token that cannot be read.
            DataError: Others than its owner may read the token.
            MissingExtra: As `trackers_of`.
        """
        auth = None if self.token is None else auth_of_file(Path(self.token))
        return trackers_of(self.to, folder=Path(self.folder), auth=auth)


def trackers_of(
    targets: Sequence[str], *, folder: Path = Path(), auth: str | None = None
) -> list[Tracker]:
    """A tracker for each target; none of them is asked anything yet.

    Args:
        targets: Each `tensorboard:FOLDER` or `mlflow:URI`.
        folder: What relative folders are relative to.
        auth: For MLflow, an `Authorization` header's value; None for a server that wants none.

    Raises:
        OptionError: One is neither, or is an address that a secret stands in or would leak through.
            Nothing of such an address is in the error.
        MissingExtra: TensorBoard is not installed.
    """
    if auth is not None and len({t for t in targets if wants_token(t)}) > 1:
        raise _wrong("would send one token to several servers", todo="name one of them")
    return [_tracker(target, folder, auth) for target in targets]


def wants_token(target: str) -> bool:
    """Whether a target is one to which a token may be sent."""
    return target.startswith("mlflow:")


def auth_of_environment(environment: Mapping[str, str]) -> str | None:
    """The `Authorization` header of the variables that MLflow's own client reads; None of none."""
    token = environment.get("MLFLOW_TRACKING_TOKEN", "")
    user = environment.get("MLFLOW_TRACKING_USERNAME", "")
    if token:
        return _bearer(token, "MLFLOW_TRACKING_TOKEN")
    if not user:
        return None
    both = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
    return f"Basic {base64.b64encode(both.encode()).decode()}"


def auth_of_file(path: Path) -> str:
    """The `Authorization` header of a token in a file that only its owner may use.

    Raises:
        DataError: Others may use it.
        OptionError: It cannot be read, or holds no token.
    """
    try:
        token = read_secret(path).decode("ascii").strip()
    except OSError as error:
        raise OptionError(
            f"no token can be read there ({error.strerror})",
            todo="it is the path of a file",  # not told: some write the token itself
            where="[tracking] token_file",
        ) from None
    except UnicodeDecodeError:
        token = ""
    return _bearer(token, "[tracking] token_file")


def _bearer(token: str, where: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise OptionError("holds no token", todo="printable letters without a space", where=where)
    return f"Bearer {token}"


def _tracker(target: str, folder: Path, auth: str | None) -> Tracker:
    kind, _, where = target.partition(":")
    match kind:
        case "tensorboard" if where:
            try:
                from fedward.server.tensorboard_tracker import TensorBoard
            except ImportError:
                raise MissingExtra(
                    "TensorBoard is not installed", todo="pip install 'fedward[tracking]'"
                ) from None
            return TensorBoard(folder / where)
        case "mlflow" if where:
            return Mlflow(_checked(where, secret=auth is not None), auth)
    raise OptionError("names no tracker", todo=_TODO, where="track")


def _checked(address: str, *, secret: bool) -> str:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _wrong("is no address") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise _wrong(
            "has a name, a password or a question in the address, which would be seen",
            todo="put them into MLFLOW_TRACKING_TOKEN, or the file of [tracking] token_file",
        )
    if parts.scheme not in {"http", "https"} or not host or not address.isprintable():
        raise _wrong("is no address of a server")
    if secret and parts.scheme == "http" and not is_this_machine(host):
        raise _wrong("would send a token that anybody on the way can read", todo="use https://")
    return address


def _wrong(what: str, *, todo: str = _TODO) -> OptionError:
    return OptionError(what, todo=todo, where="mlflow:")
