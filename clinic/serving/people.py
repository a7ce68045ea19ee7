"""What people use: a page to upload a file, and the answer with a picture of why."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jinja2
import numpy as np
import torch
from fastapi import APIRouter, File, Form, Response, UploadFile
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from fedward.clinic.answers import Answer, answers
from fedward.clinic.asked_model import AskedModel
from fedward.clinic.explaining import explain as explain_model
from fedward.clinic.explanation_picture import picture_of
from fedward.clinic.serving.answering import Answering
from fedward.clinic.serving.reading import Reading
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.rest import REFUSALS
from fedward.clinic.serving.served_model import ServedModel
from fedward.study.errors import OptionError
from fedward.web.page_headers import page_headers, static

_PAGE = Path(__file__).parent / "page"
_MOST_RECORDS = 1000
_MOST_FILES = 100


class Explanation(NamedTuple):
    """Why a model says what it says.

    Attributes:
        png: The picture.
        about: What it shows, a sentence.
    """

    png: bytes
    about: str


Explain = Callable[[Answering, ServedModel, NDArray[Any]], Awaitable[Explanation]]
"""Explains one record, shape as the model sees it, without a batch."""


class Told(BaseModel):
    """What the model says of one record."""

    name: str
    values: dict[str, float]
    called: list[str]


class Explained(BaseModel):
    """A picture of why, of the first record."""

    picture: str
    about: str


class Prediction(BaseModel):
    """The answer to an upload; it has an id where labels may come for it later."""

    model: str
    study: str
    digest: str
    id: str
    records: list[Told]
    explanation: Explained | None


class _Served(nn.Module):
    """A served model as a network that another thread than the service's own calls.

    What it is asked waits in turn with everybody's requests.
    """

    def __init__(self, answering: Answering, model: ServedModel) -> None:
        super().__init__()
        self._answering, self._model = answering, model
        self._loop = asyncio.get_running_loop()
        self.over = False  # whoever wanted to know has gone

    def forward(self, records: Tensor) -> Tensor:
        asked = self._ask(records.numpy())
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    async def _ask(self, records: NDArray[Any]) -> Tensor:
        if self.over:
            raise Refusal(503, "nobody waits for the explanation")
        outputs = await self._answering.unwatched(self._model, records)
        return torch.from_numpy(np.array(outputs[0]))


async def covered(answering: Answering, model: ServedModel, record: NDArray[Any]) -> Explanation:
    """Explain by covering parts of the record.

    Raises:
        Refusal: Such a model is not explained.
    """
    one = record[None].copy()
    (answer,) = told(model, one, (await answering.unwatched(model, one))[0])
    target = answer.called[0] if answer.called else None
    says = ", ".join(f"{name} {value:.3g}" for name, value in answer.values.items())
    network = _Served(answering, model)
    asked = AskedModel(network, model.study, model.scaling, model.said.threshold, gradients=False)

    def explained() -> tuple[str, bytes]:
        shown = torch.from_numpy(one)
        found = explain_model(asked, shown, target)
        return found.target, picture_of(found, shown, model.study.data, f"The model says: {says}")

    try:
        name, png = await asyncio.to_thread(explained)
    except OptionError as error:
        raise Refusal(400, error.what) from None
    finally:
        network.over = True
    about = (
        f"Each part of the record was covered in turn. Orange parts speak for {name}, "
        "for covering them lowers it; purple parts speak against it."
    )
    return Explanation(png, about)


def told(model: ServedModel, inputs: NDArray[Any], outputs: NDArray[Any]) -> tuple[Answer, ...]:
    """What outputs mean, one answer a record."""
    return answers(
        torch.from_numpy(np.array(outputs)),
        torch.from_numpy(np.array(inputs)),
        model.study.task,
        threshold=model.said.threshold,
    )


def for_people(answering: Answering, reading: Reading, explain: Explain = covered) -> APIRouter:
    """The page, and what it asks.

    Args:
        answering: The models.
        reading: Reads uploads.
        explain: Makes the picture.
    """
    router = APIRouter(responses=REFUSALS)

    @router.post("/predict")
    async def predict(
        files: Annotated[list[UploadFile], File(description="Files that belong together.")],
        model: Annotated[str, Form(description="Its name; may be left out if it is alone.")] = "",
        explain_it: Annotated[bool, Form(alias="explain")] = False,
    ) -> Prediction:
        asked = _only(answering) if not model else answering.model(model)
        read = await reading.read(asked, await _contents(files))
        if not 0 < len(read.inputs) <= _MOST_RECORDS:
            raise Refusal(413, f"an upload has 1 to {_MOST_RECORDS} records")
        name = answering.id_for(asked, "")
        outputs = await answering.answer(asked, read.inputs, name)
        found = told(asked, read.inputs, outputs[0])
        why = await explain(answering, asked, read.inputs[0]) if explain_it else None
        return Prediction(
            model=asked.name,
            study=asked.study.study.title or asked.study.study.name,
            digest=asked.said.digest,
            id=name,
            records=[
                Told(name=name, values=each.values, called=list(each.called))
                for name, each in zip(read.names, found, strict=True)
            ],
            explanation=None if why is None else _shown(why),
        )

    page = _page(answering)

    @router.get("/", response_class=Response, include_in_schema=False)
    async def show_page() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=page_headers())

    for name in ("page.js", "page.css"):
        router.add_api_route(f"/{name}", static(_PAGE / name), include_in_schema=False)
    return router


def _only(answering: Answering) -> ServedModel:
    if len(answering.models) != 1:
        raise Refusal(400, f"one of the models is needed: {', '.join(answering.models)}")
    (model,) = answering.models.values()
    return model


async def _contents(files: list[UploadFile]) -> dict[str, bytes]:
    if len(files) > _MOST_FILES:
        raise Refusal(413, f"an upload has at most {_MOST_FILES} files")
    found = {file.filename or "": await file.read() for file in files}
    if "" in found or len(found) < len(files):
        raise Refusal(400, "each file needs a name of its own")
    return found


def _shown(why: Explanation) -> Explained:
    encoded = base64.b64encode(why.png).decode()
    return Explained(picture=f"data:image/png;base64,{encoded}", about=why.about)


def _page(answering: Answering) -> bytes:
    loader = jinja2.FileSystemLoader(_PAGE)
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    models = [
        {"name": name, "title": model.study.study.title or model.study.study.name}
        for name, model in answering.models.items()
    ]
    return made.get_template("page.html").render(models=models).encode()
