"""TensorBoard's files, MLflow's protocol, and how trackers are named."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fedward.server.aggregator import Aggregator, found_aggregator
from fedward.server.mlflow_tracker import Mlflow
from fedward.server.tracked_values import Point
from fedward.server.tracker_targets import (
    Targets,
    auth_of_environment,
    auth_of_file,
    trackers_of,
)
from fedward.server.tracking import About, TrackerAway, TrackerRefused
from fedward.study.errors import AggregatorError, DataError, FedwardError, OptionError

ABOUT = About("run-1", "key 'x", "a study", {f"s.{n}": str(n) for n in range(150)}, {"tag": "d"})
POINTS = [Point("validation/auc", 0.1 * n, n, 1.7e9 + n) for n in range(3)]
SECRET = "s3cr3t-w0rd"


# --- TensorBoard ----------------------------------------------------------------------------------


def read(folder: Path) -> Any:  # noqa: ANN401 - TensorBoard has no types
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    (tracker,) = trackers_of(["tensorboard:tb"], folder=tmp_path)
    for _ in range(2):  # as of a run that was taken up
        tracker.begin(ABOUT)
        tracker.points(POINTS[:2])
        tracker.tags({"sha256.model.safetensors": "abc"})
        tracker.end("finished")
    tracker.points(POINTS[2:])

    found = read(tmp_path / "tb" / "run-1")
    assert len(list((tmp_path / "tb" / "run-1").iterdir())) == 2
    scalars = {(e.step, round(e.value, 4)) for e in found.Scalars("validation/auc")}
    assert scalars == {(0, 0.0), (1, 0.1), (2, 0.2)}
    texts = found.Tensors("about/sha256.model.safetensors")
    assert texts[0].tensor_proto.string_val == [b"abc"]
    assert found.Tensors("about/s.149")[0].tensor_proto.string_val == [b"149"]
    assert found.Tensors("about/ended")[0].tensor_proto.string_val == [b"finished"]


def test_half_a_record_of_a_full_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from fedward.server import tensorboard_tracker

    tracker = tensorboard_tracker.TensorBoard(tmp_path)
    tracker.begin(ABOUT)

    def full(file: Any, content: bytes) -> None:  # noqa: ANN401
        file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tensorboard_tracker, "_write_all", full)
        with pytest.raises(TrackerAway, match="No space left"):
            tracker.points(POINTS)
    tracker.points(POINTS)
    assert [e.step for e in read(tmp_path / "run-1").Scalars("validation/auc")] == [0, 1, 2]


def test_a_folder_that_cannot_be_made_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tracker,) = trackers_of([f"tensorboard:{tmp_path}/file"])
    with pytest.raises(TrackerAway, match="cannot be written"):
        tracker.begin(ABOUT)


# --- MLflow ---------------------------------------------------------------------------------------


class Pretended:
    """What a pretended server was asked, and what it says: by path, answers in their order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[str | None] = []
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        self.location = ""

    def answer(self, path: str, body: Any) -> tuple[int, bytes]:  # noqa: ANN401
        known = {
            "experiments/get-by-name": {"experiment": {"experiment_id": "5"}},
            "runs/search": {},
            "runs/create": {"run": {"info": {"run_id": "r1"}}},
        }
        self.asked.append((path, body))
        if self.answers.get(path):
            return self.answers[path].pop(0)
        return 200, json.dumps(known.get(path, {})).encode()

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]


@contextmanager
def serving(pretended: Pretended) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._say(self.path, body)

        def do_GET(self) -> None:
            self._say(self.path.partition("?")[0], None)

        def _say(self, path: str, body: Any) -> None:  # noqa: ANN401
            pretended.headers.append(self.headers.get("Authorization"))
            code, content = pretended.answer(path.removeprefix("/api/2.0/mlflow/"), body)
            self.send_response(code)
            if code in {301, 307}:
                self.send_header("Location", pretended.location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pretended() -> Pretended:
    return Pretended()


def test_mlflow_is_told_in_requests_that_it_takes(pretended: Pretended) -> None:
    with serving(pretended) as address:
        tracker = Mlflow(address, f"Bearer {SECRET}")
        tracker.begin(ABOUT)
        tracker.points(POINTS * 500)
        tracker.end("stopped")

    assert set(pretended.headers) == {f"Bearer {SECRET}"}
    (created,) = pretended.bodies("runs/create")
    assert (created["experiment_id"], created["run_name"]) == ("5", "run-1")
    (searched,) = pretended.bodies("runs/search")
    assert searched["filter"] == "tags.`fedward.key` = 'key__x'"  # nothing ends the quotes
    assert created["tags"] == [{"key": "fedward.key", "value": "key__x"}]
    logged = pretended.bodies("runs/log-batch")
    assert [len(body.get("params", [])) for body in logged][:2] == [100, 50]
    assert [len(body["metrics"]) for body in logged if "metrics" in body] == [1000, 500]
    first = {"key": "validation/auc", "value": 0.0, "timestamp": 1_700_000_000_000, "step": 0}
    assert next(body["metrics"][0] for body in logged if "metrics" in body) == first
    assert [b["status"] for b in pretended.bodies("runs/update")] == ["RUNNING", "KILLED"]
    assert {b["run_id"] for b in [*logged, *pretended.bodies("runs/update")]} == {"r1"}


def test_a_run_that_is_taken_up_goes_on_in_its_place(pretended: Pretended) -> None:
    found = {"runs": [{"info": {"run_id": "old"}}]}
    pretended.answers["runs/search"] = [(200, json.dumps(found).encode())]
    with serving(pretended) as address:
        Mlflow(address).begin(ABOUT)
    assert pretended.bodies("runs/create") == []
    assert {b["run_id"] for b in pretended.bodies("runs/log-batch")} == {"old"}
    assert set(pretended.headers) == {None}


def test_a_run_that_was_made_by_a_request_without_an_answer_is_found(pretended: Pretended) -> None:
    """Otherwise a slow server would have two."""
    about = replace(ABOUT, key=None)
    pretended.answers["runs/create"] = [(504, b"")]
    with serving(pretended) as address:
        tracker, other = Mlflow(address), Mlflow(address)
        with pytest.raises(TrackerAway):
            tracker.begin(about)
        tracker.begin(about)
        other.begin(about)
    first, again, others = (body["filter"] for body in pretended.bodies("runs/search"))
    assert first == again != others


def test_a_beginning_that_failed_half_way_makes_no_second_run(pretended: Pretended) -> None:
    pretended.answers["runs/log-batch"] = [(503, b"busy")]
    with serving(pretended) as address:
        tracker = Mlflow(address)
        with pytest.raises(TrackerAway, match="503"):
            tracker.begin(ABOUT)
        tracker.begin(ABOUT)
    assert len(pretended.bodies("runs/create")) == 1


def test_an_experiment_that_is_not_there_is_made(pretended: Pretended) -> None:
    gone = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such"}'
    pretended.answers["experiments/get-by-name"] = [(404, gone)]
    pretended.answers["experiments/create"] = [(200, b'{"experiment_id": "9"}')]
    with serving(pretended) as address:
        Mlflow(address).begin(ABOUT)
    assert pretended.bodies("experiments/create") == [{"name": "a study"}]
    assert pretended.bodies("runs/create")[0]["experiment_id"] == "9"


@pytest.mark.parametrize(
    ("code", "content", "kind"),
    [
        (401, b"", TrackerRefused),
        (403, b"{}", TrackerRefused),
        (400, b'{"message": "bad"}', TrackerRefused),
        (404, b"<html>", TrackerRefused),
        (200, b"<html>", TrackerRefused),
        (200, b"[" * 100_000, TrackerRefused),
        (200, b'{"a": "' + b"x" * (1 << 21) + b'"}', TrackerRefused),
        (429, b"", TrackerAway),
        (500, b"[]", TrackerAway),
        (503, b"\xff", TrackerAway),
    ],
)
def test_other_answers_are_away_or_refused(
    pretended: Pretended, code: int, content: bytes, kind: type[FedwardError]
) -> None:
    pretended.answers["runs/update"] = [(code, content)]
    with serving(pretended) as address, pytest.raises(kind) as error:
        Mlflow(address, f"Bearer {SECRET}").begin(ABOUT)
    assert SECRET not in str(error.value)


def test_a_redirect_does_not_carry_the_token_elsewhere(pretended: Pretended) -> None:
    other = Pretended()
    with serving(pretended) as address, serving(other) as elsewhere:
        pretended.location = f"{elsewhere}/api/2.0/mlflow/runs/create"
        pretended.answers["runs/create"] = [(307, b"")]
        with pytest.raises(TrackerRefused, match="307"):
            Mlflow(address, f"Bearer {SECRET}").begin(ABOUT)
    assert other.asked == []


def test_a_server_that_is_not_there_is_away() -> None:
    with serving(Pretended()) as address:
        pass
    with pytest.raises(TrackerAway, match="ConnectError"):
        Mlflow(address).begin(ABOUT)


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        f"mlflow:https://user:{SECRET}@host",
        f"mlflow:https://{SECRET}@host",
        f"mlflow:https://host/?token={SECRET}",
        f"mlflow:https://host/#{SECRET}",
        f"mlflow:ftp://{SECRET}",
        f"mlflow:{SECRET}",
        f"mlflow:https://host:{SECRET}",
        f"mlflow:https://[{SECRET}",
        f"wandb:{SECRET}",
        f"https://x:{SECRET}@host",
        "mlflow:",
        "tensorboard:",
        "",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_and_not_repeated(
    target: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError) as error:
        trackers_of([target])
    assert SECRET not in error.value.line()
    hub = found_aggregator(tmp_path / "a.toml", name="Hub", host="hub.org", port=9443)
    for value in (json.dumps(target), json.dumps([target])):
        hub.path.write_text(f'name = "Hub"\nhost = "hub.org"\n[tracking]\nto = {value}\n')
        with pytest.raises(OptionError) as again:
            Aggregator(hub.path).tracking.trackers()
        assert SECRET not in again.value.line()


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("https://host.org/path", True),
        ("http://localhost:5000", True),
        ("http://127.0.0.1:5000", True),
        ("http://[::1]:5000", True),
        ("http://host.org", False),
        ("http://127.0.0.1.host.org", False),
    ],
)
def test_a_token_goes_through_tls_or_nowhere(address: str, *, fits: bool) -> None:
    assert trackers_of([f"mlflow:{address}"])
    if fits:
        assert trackers_of([f"mlflow:{address}"], auth="Bearer x")
    else:
        with pytest.raises(OptionError, match="anybody on the way"):
            trackers_of([f"mlflow:{address}"], auth="Bearer x")


def test_one_token_is_not_sent_to_two_servers() -> None:
    two = ["mlflow:https://a.org", "tensorboard:x", "mlflow:https://b.org"]
    with pytest.raises(OptionError, match="one token to several"):
        trackers_of(two, auth="Bearer x")
    assert len(trackers_of(["mlflow:https://a.org", "mlflow:https://b.org"])) == 2


def test_a_proxy_does_not_see_what_is_for_this_machine(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Pretended()
    with serving(pretended) as address, serving(other) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        Mlflow(address, "Bearer x").begin(ABOUT)
    assert pretended.headers
    assert other.headers == []


def test_the_environment_s_token_is_that_of_mlflow_s_own_client() -> None:
    assert auth_of_environment({}) is None
    both = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pw"}
    assert auth_of_environment(both) == "Basic YWRhOnB3"
    assert auth_of_environment({**both, "MLFLOW_TRACKING_TOKEN": "t"}) == "Bearer t"
    with pytest.raises(OptionError, match="MLFLOW_TRACKING_TOKEN") as error:
        auth_of_environment({"MLFLOW_TRACKING_TOKEN": f"{SECRET}\nx"})
    assert SECRET not in error.value.line()


def test_a_token_s_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o644)
    with pytest.raises(DataError, match="others"):
        auth_of_file(path)
    path.chmod(0o600)
    assert auth_of_file(path) == f"Bearer {SECRET}"
    for content in (b"", b"\xff", b"a b", b"a\nb"):
        path.write_bytes(content)
        with pytest.raises(OptionError, match="holds no token"):
            auth_of_file(path)
    with pytest.raises(OptionError, match="no token can be read"):
        auth_of_file(tmp_path / "none")


def test_an_aggregator_names_its_trackers(tmp_path: Path) -> None:
    hub = found_aggregator(tmp_path / "a.toml", name="Hub", host="hub.org", port=9443)
    assert hub.tracking.document() == ""
    assert Targets.parse("").trackers() == []
    text = 'to = ["tensorboard:tb", "mlflow:https://m.org"]\ntoken_file = "token"\n'
    hub.path.write_text(f'name = "Hub"\nhost = "hub.org"\n[tracking]\n{text}')
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(SECRET)

    wanted = Aggregator(hub.path).tracking
    assert SECRET not in wanted.document()
    assert Targets.parse(wanted.document()) == wanted
    first, second = wanted.trackers()
    assert first.label == f"TensorBoard's folder {tmp_path / 'tb'}"
    assert second.label == "MLflow at https://m.org"
    (tmp_path / "token").unlink()
    with pytest.raises(OptionError, match="no token"):
        wanted.trackers()
    hub.path.write_text('name = "Hub"\nhost = "hub.org"\n[tracking]\nwhere = 1\n')
    with pytest.raises(AggregatorError, match=r"tracking\.where"):
        Aggregator(hub.path)
