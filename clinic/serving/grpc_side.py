"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fedward.clinic.serving import inference_pb2 as pb
from fedward.clinic.serving.answering import Answering
from fedward.clinic.serving.door import LOG, Flying, Limits, Pass, place_of
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.rest import EXTENSIONS, PLATFORM
from fedward.clinic.serving.served_model import ServedModel, TensorFacts
from fedward.clinic.serving.tensors import (
    LONGEST_ID,
    from_bytes,
    named_input,
    named_outputs,
    shaped,
    to_bytes,
)
from fedward.study.version import VERSION

SERVICE = "inference.GRPCInferenceService"
_OPEN = frozenset(f"/{SERVICE}/{name}" for name in ("ServerLive", "ServerReady"))
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "BOOL": "bool_contents",
}

Q = TypeVar("Q")
A = TypeVar("A", bound=Message)


def server(
    answering: Answering,
    known: Pass,
    limits: Limits,
    flying: Flying,
    is_ready: Callable[[], bool],
    *,
    stream_limit: int = 256,
) -> grpc.aio.Server:
    """A server that has no port yet.

    Args:
        answering: The models.
        known: Who may ask.
        limits: Of each request.
        flying: Counts the bytes in flight.
        is_ready: Whether all that the service does can be done now.
        stream_limit: Most requests at a time.
    """
    guard = _Guard(answering, known, flying)
    made = grpc.aio.server(
        interceptors=[guard],
        options=[
            ("grpc.max_receive_message_length", limits.size),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=stream_limit,
    )
    endpoints = _Endpoints(answering, is_ready)
    methods: Sequence[tuple[Callable[[Any], Awaitable[Message]], type[Message]]] = (
        (endpoints.ServerLive, pb.ServerLiveRequest),
        (endpoints.ServerReady, pb.ServerReadyRequest),
        (endpoints.ServerMetadata, pb.ServerMetadataRequest),
        (endpoints.ModelReady, pb.ModelReadyRequest),
        (endpoints.ModelMetadata, pb.ModelMetadataRequest),
        (endpoints.ModelInfer, pb.ModelInferRequest),
    )
    handlers = {
        method.__name__: grpc.unary_unary_rpc_method_handler(
            guard.guarded(method, method.__name__),
            request_deserializer=request.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )
        for method, request in methods
    }
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return made


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """The same door as HTTP's: token, rate, bytes in flight, counting, and no value in a log."""

    def __init__(self, answering: Answering, known: Pass, flying: Flying) -> None:
        self._gauges, self._known, self._flying = answering.gauges, known, flying

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Look at the token before any message is read."""
        if handler_call_details.method in _OPEN:
            return await continuation(handler_call_details)
        sent = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        try:
            self._known.check_token(sent if isinstance(sent, bytes) else sent.encode())
        except Refusal as found:
            refusal = found
        else:
            return await continuation(handler_call_details)

        async def refuse(_: object) -> Message:
            raise refusal

        # Of a stream, a handler gets an iterator, from which this one takes nothing; a single
        # message would be received before its handler runs.
        return grpc.stream_unary_rpc_method_handler(self.guarded(refuse, "-"))

    def guarded(
        self, method: Callable[[Q], Awaitable[A]], name: str
    ) -> Callable[[Q, grpc.aio.ServicerContext[Q, A]], Awaitable[A]]:
        """A method whose requests are counted, and whose errors say nothing of them."""

        async def answer(request: Q, context: grpc.aio.ServicerContext[Q, A]) -> A:
            size = request.ByteSize() if isinstance(request, Message) else 0
            gauges, counted = self._gauges, 0
            code = grpc.StatusCode.OK
            with gauges.in_flight.track_inprogress(), gauges.seconds.labels(name).time():
                try:
                    self._known.check_rate(context.peer().rpartition(":")[0])
                    self._flying.add(size)
                    counted = size
                    return await method(request)
                except Refusal as refusal:
                    code = _CODES.get(refusal.status, grpc.StatusCode.INTERNAL)
                    sentence = refusal.sentence()
                except Exception as error:  # its words may quote a record
                    LOG.error("unexpected %s at %s", type(error).__name__, place_of(error))
                    code, sentence = grpc.StatusCode.INTERNAL, "The service failed."
                finally:
                    self._flying.take_away(counted)
                    gauges.requests.labels(name, code.name).inc()
                    LOG.info("%s %s", name, code.name)
            await context.abort(code, sentence)
            raise AssertionError("abort raises")  # pragma: no cover

        return answer


class _Endpoints:
    def __init__(self, answering: Answering, is_ready: Callable[[], bool]) -> None:
        self._answering, self._is_ready = answering, is_ready

    async def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ServerMetadata(  # noqa: N802
        self, _: pb.ServerMetadataRequest
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="fedward", version=VERSION, extensions=EXTENSIONS)

    async def ModelReady(self, asked: pb.ModelReadyRequest) -> pb.ModelReadyResponse:  # noqa: N802
        self._answering.model(asked.name, asked.version)
        return pb.ModelReadyResponse(ready=not self._answering.stopping)

    async def ModelMetadata(  # noqa: N802
        self, asked: pb.ModelMetadataRequest
    ) -> pb.ModelMetadataResponse:
        model = self._answering.model(asked.name, asked.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[model.version],
            platform=PLATFORM,
            inputs=[_tensor(model.input)],
            outputs=[_tensor(output) for output in model.outputs],
        )

    async def ModelInfer(self, asked: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802
        model = self._answering.model(asked.model_name, asked.model_version)
        if len(asked.id) > LONGEST_ID:
            raise Refusal(400, f"the request's id is longer than {LONGEST_ID} letters")
        places = named_outputs([wanted.name for wanted in asked.outputs], model)
        name = self._answering.id_for(model, asked.id)
        outputs = await self._answering.answer(model, _inputs(asked, model), name)
        reply = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=name)
        for place in places or range(len(outputs)):
            facts, output = model.outputs[place], outputs[place]
            reply.outputs.add(name=facts.name, datatype=facts.datatype, shape=output.shape)
            reply.raw_output_contents.append(to_bytes(output))
        return reply


def _inputs(asked: pb.ModelInferRequest, model: ServedModel) -> NDArray[Any]:
    if len(asked.inputs) != 1:
        raise Refusal(400, "the model has one input")
    (given,) = asked.inputs
    facts = named_input(given.name, given.datatype, model)
    if asked.raw_input_contents:
        if len(asked.raw_input_contents) != 1 or given.HasField("contents"):
            raise Refusal(400, "the input comes either raw or as contents, once")
        return from_bytes(asked.raw_input_contents[0], facts, list(given.shape))
    field = _CONTENTS.get(facts.datatype)
    if field is None:
        raise Refusal(400, f"contents of datatype {facts.datatype} come raw only")
    return shaped(np.fromiter(getattr(given.contents, field), facts.dtype), list(given.shape))


def _tensor(facts: TensorFacts) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=facts.name, datatype=facts.datatype, shape=facts.shape
    )
