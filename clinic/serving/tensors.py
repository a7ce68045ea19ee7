"""Tensors as the Open Inference Protocol has them, in JSON and as bytes after it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
and Triton's extension for binary data: after a JSON header, whose length a header of HTTP tells,
stand the tensors' numbers, little-endian, row by row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel, TensorFacts

BINARY_HEADER = "Inference-Header-Content-Length"
_DIMENSIONS = 8
LONGEST_ID = 256
"""Letters of a request's id."""

_KINDS: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "b": {bool}}


class _Part(BaseModel):
    """Unknown keys are allowed: the protocol's extensions add some."""

    model_config = ConfigDict(strict=True)
    parameters: dict[str, Any] = {}


class _Input(_Part):
    name: str
    shape: list[int] = Field(max_length=_DIMENSIONS)
    datatype: str
    data: list[Any] | None = None


class _Output(_Part):
    name: str


class InferBody(_Part):
    """The JSON of an inference request."""

    id: str = Field("", max_length=LONGEST_ID)
    inputs: list[_Input] = Field(min_length=1, max_length=1)
    outputs: list[_Output] | None = None


class Asked(NamedTuple):
    """An inference request, read.

    Attributes:
        id: Whatever the sender calls it.
        inputs: Not yet checked against the model.
        wanted: Which outputs, by place in the model, and whether each as bytes.
    """

    id: str
    inputs: NDArray[Any]
    wanted: Sequence[tuple[int, bool]]


def read_request(body: bytes, header_length: str | None, model: ServedModel) -> Asked:
    """Read the body of an inference request.

    Args:
        body: JSON, perhaps followed by one tensor's bytes.
        header_length: What the header of HTTP says of the JSON's length; None if it is all.
        model: Which is asked.

    Raises:
        Refusal: It is no such request.
    """
    head, rest = _divided(body, header_length)
    try:
        found = InferBody.model_validate(json.loads(head, parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise Refusal(400, _fault(error)) from None
    (given,) = found.inputs
    facts = named_input(given.name, given.datatype, model)
    size = given.parameters.get("binary_data_size")
    if size is None:
        if rest:
            raise Refusal(400, "bytes follow the JSON that no input speaks of")
        inputs = from_numbers(given.data, facts, given.shape)
    else:
        if type(size) is not int or size != len(rest) or given.data is not None:
            raise Refusal(400, "binary_data_size is not the number of bytes after the JSON")
        inputs = from_bytes(rest, facts, given.shape)
    everywhere = found.parameters.get("binary_data_output") is True
    outputs = found.outputs or [_Output(name=output.name) for output in model.outputs]
    binaries = [output.parameters.get("binary_data", everywhere) is True for output in outputs]
    places = named_outputs([output.name for output in outputs], model)
    return Asked(found.id, inputs, list(zip(places, binaries, strict=True)))


def write_reply(
    asked: Asked, outputs: Sequence[NDArray[Any]], model: ServedModel
) -> tuple[bytes, int | None]:
    """The body of a reply, and the length of its JSON where bytes follow."""
    told, tails = [], []
    for place, binary in asked.wanted:
        facts, output = model.outputs[place], outputs[place]
        tensor: dict[str, Any] = {
            "name": facts.name,
            "datatype": facts.datatype,
            "shape": list(output.shape),
        }
        if binary:
            tail = to_bytes(output)
            tensor["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        else:
            tensor["data"] = output.ravel().tolist()
        told.append(tensor)
    reply = {"model_name": model.name, "model_version": model.version, "outputs": told}
    if asked.id:
        reply["id"] = asked.id
    head = json.dumps(reply, allow_nan=False).encode()
    return b"".join([head, *tails]), len(head) if tails else None


def named_input(name: str, datatype: str, model: ServedModel) -> TensorFacts:
    """The model's input, if it is called so.

    Raises:
        Refusal: It is not, or has another datatype.
    """
    if name != model.input.name or datatype != model.input.datatype:
        raise Refusal(
            400, f"the one input is called {model.input.name}, of datatype {model.input.datatype}"
        )
    return model.input


def named_outputs(names: Sequence[str], model: ServedModel) -> list[int]:
    """The places of outputs.

    Raises:
        Refusal: The model has none of such a name, or one is named twice.
    """
    known = [output.name for output in model.outputs]
    if not set(names) <= set(known):
        raise Refusal(400, f"the outputs are called {', '.join(known)}")
    if len(set(names)) < len(names):
        raise Refusal(400, "an output is asked for twice")
    return [known.index(name) for name in names]


def from_numbers(
    data: Sequence[Any] | None, facts: TensorFacts, shape: Sequence[int]
) -> NDArray[Any]:
    """A tensor of JSON's numbers in a row, or in rows of rows.

    Raises:
        Refusal: They are no numbers of that datatype, or not as many as the shape says.
    """
    dtype = np.dtype(facts.dtype)
    # As references: numpy's own choice for texts gives each the room that the longest needs.
    found = np.array([] if data is None else data, dtype=object)
    kinds = set(map(type, found.flat))
    if list in kinds:
        raise Refusal(400, "the data are not rows of one length")
    if data is None or not kinds <= _KINDS[dtype.kind]:
        raise Refusal(400, f"the data must be numbers of datatype {facts.datatype}")
    try:
        with np.errstate(over="ignore"):  # becomes infinity, which no model takes
            return shaped(found.astype(dtype), shape)
    except OverflowError:
        raise Refusal(400, f"a number is too large for datatype {facts.datatype}") from None


def shaped(numbers: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Numbers in the shape that was told.

    Raises:
        Refusal: They are not as many.
    """
    _check_shape(shape, numbers.size)
    return numbers.reshape(tuple(shape))


def from_bytes(data: bytes, facts: TensorFacts, shape: Sequence[int]) -> NDArray[Any]:
    """A tensor of little-endian bytes.

    Raises:
        Refusal: They are not as many as the shape says.
    """
    dtype = np.dtype(facts.dtype).newbyteorder("<")
    _check_shape(shape, len(data) / dtype.itemsize)
    if facts.dtype is np.bool_ and data.strip(b"\0\1"):
        raise Refusal(400, "the data must be numbers of datatype BOOL")
    return np.frombuffer(data, dtype).astype(facts.dtype).reshape(tuple(shape))


def to_bytes(output: NDArray[Any]) -> bytes:
    """A tensor's numbers, little-endian, row by row."""
    return output.astype(output.dtype.newbyteorder("<"), copy=False).tobytes()


def _check_shape(shape: Sequence[int], numbers: float) -> None:
    if len(shape) > _DIMENSIONS or any(size < 0 for size in shape) or math.prod(shape) != numbers:
        raise Refusal(400, "the shape does not fit the number of data")


def _divided(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 12
    if not digits or int(header_length) > len(body):
        raise Refusal(400, f"{BINARY_HEADER} is no length within the body")
    return body[: int(header_length)], body[int(header_length) :]


def _no_number(_name: str) -> NoReturn:
    raise ValueError("NaN or infinity")


def _fault(error: Exception) -> str:
    """What is wrong with the JSON, without a value of it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        steps = [str(step) for step in first["loc"]]
        known = {*InferBody.model_fields, *_Input.model_fields}
        where = ".".join(step for step in steps if step in known or step.isdigit())
        return f"the request's {where or 'JSON'} is wrong ({first['type']})"
    if str(error) == "NaN or infinity":
        return "the data hold NaN or infinity"
    return "the body is not JSON in UTF-8"
