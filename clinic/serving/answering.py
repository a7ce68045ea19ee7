"""Models that answer, whichever way a request came: checked, batched, counted, watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedward.clinic.serving.batching import Batching
from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel


class Watching(Protocol):
    """Somebody who counts what a model sees and says, and keeps no record of it."""

    def saw(self, inputs: NDArray[Any], outputs: NDArray[Any], name: str = "") -> None:
        """Count a batch: inputs as the model sees them, shape (n, ...), outputs (n, ...).

        The name is the answer's, by which a label may come later.
        """

    def id_for(self, given: str) -> str:
        """The name of an answer whose sender gave this one, or none."""


class Pace(NamedTuple):
    """How requests are put together.

    Attributes:
        largest: Most records of one computation.
        delay: Seconds for which a request waits for others.
        waiting: Most records that may wait.
    """

    largest: int = 32
    delay: float = 0.002
    waiting: int = 4096


class Answering:
    """The models of a service.

    Args:
        models: By name.
        gauges: Where they are counted.
        pace: How requests are put together.
        watches: By a model's name, who counts what it sees; perhaps nobody.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        gauges: Gauges,
        pace: Pace,
        watches: Mapping[str, Watching] | None = None,
    ) -> None:
        self.models = models
        self.gauges = gauges
        self.stopping = False
        self._watches = dict(watches or {})
        self._batching = {
            name: Batching(
                model.run,
                largest=_largest(model, pace),
                delay=pace.delay,
                waiting=pace.waiting,
                batched=gauges.batched(name),
            )
            for name, model in models.items()
        }

    def model(self, name: str, version: str = "") -> ServedModel:
        """A model by its name, and its version if one is asked for.

        Raises:
            Refusal: There is none.
        """
        found = self.models.get(name)
        if found is None or version not in {"", found.version}:
            raise Refusal(404, "no such model or version here")
        return found

    def id_for(self, model: ServedModel, given: str) -> str:
        """The name of an answer: the sender's, or a new one if labels may come later for it."""
        watch = self._watches.get(model.name)
        return given if watch is None else watch.id_for(given)

    async def answer(
        self, model: ServedModel, inputs: NDArray[Any], name: str = ""
    ) -> Sequence[NDArray[Any]]:
        """The model's outputs for these inputs, n rows each.

        Args:
            model: That is asked.
            inputs: Not yet checked.
            name: Of the answer, for who watches.

        Raises:
            Refusal: The inputs do not fit the model, or what it says of them is no number.
        """
        outputs = await self.unwatched(model, inputs)
        if model.name in self._watches:
            self._watches[model.name].saw(inputs, outputs[0], name)
        return outputs

    async def unwatched(self, model: ServedModel, inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """As `answer`, for inputs that are nobody's record, such as one with a part covered."""
        model.check(inputs)
        outputs = await self._batching[model.name].ask(inputs)
        if not all(np.isfinite(output).all() for output in outputs):
            raise Refusal(400, "what the model says of this input is no number")
        return outputs

    async def close(self) -> None:
        """Answer no more."""
        for batching in self._batching.values():
            await batching.close()


def _largest(model: ServedModel, pace: Pace) -> int:
    """Most records of one computation; of a graph with a fixed batch what each request has."""
    if model.input.shape[0] != -1:
        return model.input.shape[0]
    return 1 if model.alone else pace.largest
