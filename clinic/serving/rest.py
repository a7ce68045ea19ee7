"""The Open Inference Protocol over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from fedward.clinic.serving.answering import Answering
from fedward.clinic.serving.door import refused
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel, TensorFacts
from fedward.clinic.serving.tensors import BINARY_HEADER, InferBody, read_request, write_reply
from fedward.study.version import VERSION

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnxruntime_onnx"
_LARGE = 1 << 20  # bytes


class Wrong(BaseModel):
    """Why a request is not answered."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Wrong, "description": description}
    for status, description in {
        400: "The request is wrong.",
        401: "A token is needed.",
        403: "A page of another site asks.",
        404: "No such model or version.",
        408: "The request came too slowly.",
        413: "Too large.",
        415: "A format that is not taken.",
        429: "Too often, or too many.",
        503: "The service is not ready.",
    }.items()
}


def application(answering: Answering, is_ready: Callable[[], bool]) -> FastAPI:
    """The service's application, with the protocol's endpoints; others may be added.

    Args:
        answering: The models.
        is_ready: Whether all that the service does can be done now.
    """
    app = FastAPI(
        title="Fedward serving",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.include_router(_of_the_service(answering, is_ready))
    app.include_router(_of_a_model(answering, ""))
    app.include_router(_of_a_model(answering, "/versions/{version}"))
    return app


async def _refuse(_request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise TypeError("a handler of refusals only") from error
    return refused(error)


async def _refuse_invalid(_request: Request, error: Exception) -> Response:
    """FastAPI's own answer would quote what was sent."""
    places = error.errors() if isinstance(error, RequestValidationError) else ()
    known = {"model", "explain", "files", "name", "version"}
    named = [str(step) for place in places[:1] for step in place["loc"] if step in known]
    return refused(Refusal(400, f"the request's {named[0] if named else 'form'} is wrong"))


async def _refuse_route(_request: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, Refusal):  # while FastAPI read the body
        return refused(error.__cause__)
    status = error.status_code if isinstance(error, HTTPException) else 400
    words = {404: "no such endpoint", 405: "no such method here"}
    answer = refused(Refusal(status, words.get(status, "the request cannot be read")))
    for name, value in (getattr(error, "headers", None) or {}).items():
        answer.headers[name] = value  # which methods are allowed
    return answer


def _of_the_service(answering: Answering, is_ready: Callable[[], bool]) -> APIRouter:
    router = APIRouter(responses=REFUSALS)

    @router.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        return {
            "name": "fedward",
            "version": VERSION,
            "extensions": list(EXTENSIONS),
        }

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        now = is_ready()
        return JSONResponse({"ready": now}, 200 if now else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(answering.gauges.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _of_a_model(answering: Answering, versioned: str) -> APIRouter:
    """Endpoints of a model, with its version in the path or without."""
    router = APIRouter(responses=REFUSALS, prefix="/v2/models/{name}" + versioned)

    def model_of(request: Request) -> ServedModel:
        path = request.path_params
        return answering.model(path["name"], path.get("version", ""))

    @router.get("", openapi_extra=_parameters(versioned))
    async def model_metadata(request: Request) -> dict[str, Any]:
        model = model_of(request)
        return {
            "name": model.name,
            "versions": [model.version],
            "platform": PLATFORM,
            "inputs": [_tensor(model.input)],
            "outputs": [_tensor(output) for output in model.outputs],
        }

    @router.get("/ready", openapi_extra=_parameters(versioned))
    async def model_ready(request: Request) -> JSONResponse:
        model = model_of(request)
        is_ready = not answering.stopping
        return JSONResponse({"name": model.name, "ready": is_ready}, 200 if is_ready else 503)

    @router.post("/infer", openapi_extra=_parameters(versioned) | _BODY)
    async def infer(
        request: Request, header_length: Annotated[str | None, Header(alias=BINARY_HEADER)] = None
    ) -> Response:
        model = model_of(request)
        body = await request.body()
        # Others wait less, not for nothing: Python's parser of JSON holds the interpreter's lock.
        if len(body) > _LARGE:
            asked = await asyncio.to_thread(read_request, body, header_length, model)
        else:
            asked = read_request(body, header_length, model)
        asked = asked._replace(id=answering.id_for(model, asked.id))
        outputs = await answering.answer(model, asked.inputs, asked.id)
        reply, length = write_reply(asked, outputs, model)
        if length is None:
            return Response(reply, media_type="application/json")
        return Response(
            reply, media_type="application/octet-stream", headers={BINARY_HEADER: str(length)}
        )

    return router


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """A schema that refers to nothing outside itself."""
    match schema:
        case {"$ref": str(name)}:
            return _inlined(parts[name.rpartition("/")[2]], parts)
        case dict():
            return {key: _inlined(value, parts) for key, value in schema.items() if key != "$defs"}
        case list():
            return [_inlined(value, parts) for value in schema]
    return schema


_SCHEMA = InferBody.model_json_schema()
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _inlined(_SCHEMA, _SCHEMA["$defs"])}},
    }
}


def _parameters(versioned: str) -> dict[str, Any]:
    names = ("name", "version") if versioned else ("name",)
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    }


def _tensor(facts: TensorFacts) -> dict[str, Any]:
    return {"name": facts.name, "datatype": facts.datatype, "shape": list(facts.shape)}
