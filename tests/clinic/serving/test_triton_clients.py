"""Triton's own clients are answered, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from fedward.clinic.serving import inference_pb2
from tests.clinic.serving.conftest import Service
from tests.clinic.serving.small_models import PIXELS, expected

# gevent's pool, which the HTTP client has, must stay in the thread that made it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(params=["http", "grpc"])
def client(service: Service, request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    kind, port = (
        (triton_http, service.port) if request.param == "http" else (triton_grpc, service.grpc_port)
    )
    found = kind.InferenceServerClient(f"127.0.0.1:{port}")
    yield kind, found
    found.close()


def pictures(seed: int, count: int) -> Any:  # noqa: ANN401
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 1, PIXELS, PIXELS)).astype(np.float32)


def ask(kind: Any, client: Any, inputs: Any, **how: Any) -> Any:  # noqa: ANN401
    given = kind.InferInput("inputs", list(inputs.shape), "FP32")
    if kind is triton_http:
        given.set_data_from_numpy(inputs, binary_data=how.get("binary", True))
    else:
        given.set_data_from_numpy(inputs)
    return client.infer("picture", [given], outputs=how.get("outputs"), request_id="seven")


@pytest.mark.parametrize("count", [1, 5, 70])
def test_the_answer_is_the_networks(client: tuple[Any, Any], count: int) -> None:
    inputs = pictures(count, count)
    found = ask(*client, inputs).as_numpy("outputs")
    assert found == pytest.approx(expected(inputs), abs=1e-4)


def test_json_says_what_bytes_say(service: Service) -> None:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{service.port}")
    inputs = pictures(3, 2)
    wanted = [triton_http.InferRequestedOutput("outputs", binary_data=False)]
    found = ask(triton_http, client, inputs, binary=False, outputs=wanted)
    assert found.get_response()["id"] == "seven"
    assert "data" in found.get_response()["outputs"][0]
    assert found.as_numpy("outputs") == pytest.approx(expected(inputs), abs=1e-4)
    client.close()


def test_tokens_of_any_length_are_taken(client: tuple[Any, Any]) -> None:
    kind, asked = client
    for tokens in ([[1, 2]], [[3, 0, 5, 1]]):
        given = kind.InferInput("inputs", [1, len(tokens[0])], "INT64")
        given.set_data_from_numpy(np.array(tokens, np.int64))
        (found,) = asked.infer("words", [given]).as_numpy("outputs").tolist()
        assert found == [2 * sum(tokens[0]), 2 * sum(tokens[0]) + len(tokens[0])]


def test_it_says_what_it_is(client: tuple[Any, Any]) -> None:
    kind, asked = client
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("picture")
    assert asked.is_model_ready("picture", "1")
    more = {} if kind is triton_http else {"as_json": True}
    server, model = asked.get_server_metadata(**more), asked.get_model_metadata("picture", **more)
    assert server["name"] == "fedward"
    assert model["inputs"][0]["datatype"] == "FP32"
    assert [int(size) for size in model["inputs"][0]["shape"]] == [-1, 1, PIXELS, PIXELS]
    assert [output["name"] for output in model["outputs"]] == ["outputs"]


def wrong() -> Iterator[tuple[str, str, Any]]:
    good = pictures(0, 1)
    yield "nothing", "inputs", good
    yield "picture", "other", good
    yield "picture", "inputs", good[:, :, 1:]
    yield "picture", "inputs", good.astype(np.float64)
    yield "picture", "inputs", np.full_like(good, np.nan)
    yield "picture", "inputs", np.full_like(good, np.inf)
    yield "picture", "inputs", np.full_like(good, 3e38)  # finite, and the answer is not
    yield "words", "inputs", np.array([[99]], np.int64)  # no such token


@pytest.mark.parametrize(("model", "name", "inputs"), list(wrong()))
def test_what_is_wrong_is_refused_and_nobody_else_is(
    client: tuple[Any, Any],
    model: str,
    name: str,
    inputs: Any,  # noqa: ANN401
) -> None:
    kind, asked = client
    datatype = {"f4": "FP32", "f8": "FP64", "i8": "INT64"}[inputs.dtype.str[1:]]
    given = kind.InferInput(name, list(inputs.shape), datatype)
    given.set_data_from_numpy(inputs)
    with pytest.raises(InferenceServerException) as refused:
        asked.infer(model, [given])
    assert refused.value.status() in {
        "400",
        "404",
        "StatusCode.INVALID_ARGUMENT",
        "StatusCode.NOT_FOUND",
    }
    assert refused.value.message().count(".") >= 1
    good = pictures(1, 1)
    assert ask(kind, asked, good).as_numpy("outputs") == pytest.approx(expected(good), abs=1e-4)


def test_askers_at_the_same_time_each_get_their_own(service: Service) -> None:
    def one(seed: int) -> bool:
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}")
        right = True
        for turn in range(10):
            inputs = pictures(100 * seed + turn, 1 + turn % 3)
            found = ask(triton_grpc, client, inputs).as_numpy("outputs")
            right &= bool(np.allclose(found, expected(inputs), atol=1e-4))
        client.close()
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(8)))


def test_a_poisoned_request_spoils_no_neighbour(service: Service) -> None:
    import httpx

    async def together() -> list[httpx.Response]:
        def body(token: int) -> dict[str, Any]:
            tensor = {"name": "inputs", "shape": [1, 1], "datatype": "INT64", "data": [token]}
            return {"inputs": [tensor]}

        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            asked = (
                client.post("/v2/models/words/infer", json=body(99 if turn % 4 == 0 else turn % 4))
                for turn in range(32)
            )
            return list(await asyncio.gather(*asked))

    for turn, answer in enumerate(asyncio.run(together())):
        if turn % 4 == 0:
            assert answer.status_code == 400
        else:
            found = answer.json()["outputs"][0]["data"]
            assert found == [2 * (turn % 4), 2 * (turn % 4) + 1]


def test_our_messages_are_those_that_tritons_client_has() -> None:
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    ours = inference_pb2.DESCRIPTOR.message_types_by_name

    def fields(message: Descriptor) -> set[Any]:
        nested = {(each.name, frozenset(fields(each))) for each in message.nested_types}
        return nested | {(f.name, f.number, f.type, f.is_repeated) for f in message.fields}

    assert {"ModelInferRequest", "ModelInferResponse", "ModelMetadataResponse"} <= set(ours)
    for name, message in ours.items():
        assert fields(message) == fields(theirs[name]), name
