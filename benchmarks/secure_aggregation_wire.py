"""Bytes of one hospital's messages in a whole round, as Flower's transport cuts them into objects.

The model that comes down is left out on every side: it is the same 4 bytes a parameter for all.
Fedward's messages are packed as `fedward.study.wire` packs today's: one array, one table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from secure_aggregation_flower import Cohort, client_round, parameters_of
from secure_aggregation_flower_server import fit_result
from secure_aggregation_ours import RUN, STUDY, Consortium
from secure_aggregation_turns import normal_vector, random_words

from fedward.privacy.advert import pack
from fedward.privacy.secure_messages import Attempt, Masked, UnmaskRequest

Directions = dict[str, int]  # bytes "up", to the aggregator, and "down"


def objects(content: RecordDict) -> dict[str, bytes]:
    """The objects that a message travels as."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    message = Message(content, 1, "train", group_id="1")
    return {name: one.deflate() for name, one in get_all_nested_objects(message).items()}


def of_plain(size: int) -> Directions:
    """The vector up; nothing down but the model."""
    vector = normal_vector(size)
    return {"up": _bytes([vector_content(vector, {"hospital": "hospital-000"})]), "down": 0}


def of_ours(hospitals: int, size: int, folder: Path) -> Directions:
    """Advert, masked vector with shares, shares opened; adverts and relayed shares down."""
    consortium = Consortium(hospitals, folder)
    attempt, empty = consortium.attempt(), np.zeros(0, dtype=np.uint32)
    said = {name: one.mask(attempt, empty) for name, one in consortium.all.items()}
    own, masked = next(iter(said.items()))
    request = UnmaskRequest(attempt, attempt.invited, {n: m.shares[own] for n, m in said.items()})
    answer = consortium.all[own].unmask(request)
    advert = consortium.all[own].advertise(study=STUDY, run=RUN)
    up = [
        _terms({"advert": pack(advert)}),
        masked_content(masked, random_words(size), own),
        _terms({"hospital": own, **_mapping("shares", answer.self_shares), "seeds": [b""]}),
    ]
    down = [
        _terms({"study": STUDY, "run": RUN}),
        _terms(_told(attempt)),
        _terms({**_told(attempt), **_mapping("shares", request.shares)}),
    ]
    return {"up": _bytes(up), "down": _bytes(down)}


def of_flower(clients: int, size: int) -> Directions:
    """The four stages of Flower's protocol."""
    cohort = Cohort(clients)
    _, stages = client_round(cohort, parameters_of(normal_vector(size)))
    up = [_configs(said) for _, said in stages]
    up[2] = fit_result()
    up[2].config_records[RECORD_KEY_CONFIGS] = ConfigRecord(stages[2][1])
    down = [
        _configs({**asked, Key.STAGE: stage})
        for (asked, _), stage in zip(stages, Stage.all(), strict=True)
    ]
    return {"up": _bytes(up), "down": _bytes(down)}


def masked_content(masked: Masked, words: NDArray[np.uint32], hospital: str) -> RecordDict:
    """A hospital's answer to an attempt."""
    terms = {
        "hospital": hospital,
        "commitment": masked.commitment,
        **_mapping("shares", masked.shares),
    }
    return vector_content(words, terms)


def vector_content(vector: NDArray[Any], terms: dict[str, Any]) -> RecordDict:
    """One array of plain little-endian numbers, one table."""
    array = Array(str(vector.dtype), vector.shape, "little-endian", vector.tobytes())
    return RecordDict({"arrays": ArrayRecord({"vector": array}), "terms": ConfigRecord(terms)})


def _told(attempt: Attempt) -> dict[str, Any]:
    return {
        "study": attempt.study,
        "run": attempt.run,
        "round": attempt.round,
        "attempt": attempt.attempt,
        "adverts": [pack(advert) for advert in attempt.adverts],
    }


def _mapping(name: str, values: Any) -> dict[str, Any]:  # noqa: ANN401
    return {f"{name} of": list(values), name: list(values.values())}


def _terms(terms: dict[str, Any]) -> RecordDict:
    return RecordDict({"terms": ConfigRecord(terms)})


def _configs(values: Any) -> RecordDict:  # noqa: ANN401
    return RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(values)})


def _bytes(contents: list[RecordDict]) -> int:
    return sum(len(one) for content in contents for one in objects(content).values())
