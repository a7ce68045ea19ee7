"""The peer's server: the last two stages of Flower 1.41's `SecAggPlusWorkflow`, as they are.

Its grid is replaced by one that has all answers already. Tested on flwr 1.41; what is private of
Flower here: `WorkflowState`, `TaskIdentity`, and `_unmask` of `secaggplus_mod`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import _unmask
from flwr.common import FitRes, ndarray_to_bytes, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.compat.common import recorddict_compat as compat
from flwr.compat.common.typing import Code, Parameters, Status
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from secure_aggregation_flower import (
    CLIPPING,
    MAX_WEIGHT,
    MODULUS,
    RANGE,
    WEIGHT,
    Cohort,
    masked_of_all,
)
from secure_aggregation_turns import Stopwatch, Time

logging.getLogger("flwr").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Prepared:
    """All that clients say after `share keys`, except for their vectors."""

    cohort: Cohort
    active: list[int]
    answers: dict[int, Any]


def prepare(cohort: Cohort, dropped: int) -> Prepared:
    """Real shares of the real seeds and keys that the server has to rebuild."""
    dead, active = cohort.nodes[:dropped], cohort.nodes[dropped:]
    for node in active:
        cohort.states[node].rd_seed = os.urandom(32)
    secret = {n: cohort.states[n].rd_seed for n in active}
    secret |= {n: cohort.states[n].sk1 for n in dead}
    shares = {n: create_shares(s, cohort.threshold, len(cohort.nodes)) for n, s in secret.items()}
    answers = {
        holder: {
            Key.NODE_ID_LIST: active + dead,
            Key.SHARE_LIST: [shares[node][holder - 1] for node in active + dead],
        }
        for holder in active
    }
    return Prepared(cohort, active, answers)


def packed(words: NDArray[np.uint32]) -> bytes:
    """A masked vector as Flower sends it: 64-bit integers in NumPy's format."""
    return ndarray_to_bytes(words.astype(np.int64))


def aggregator_time(prepared: Prepared, vectors: Iterable[bytes]) -> Time:
    """From the first masked vector to the mean update; the strategy's own work is left out."""
    factor = ndarray_to_bytes(np.array([RANGE // 2]))
    replies = [reply(node, [factor, v]) for node, v in zip(prepared.active, vectors, strict=True)]
    watch = Stopwatch()
    with watch.running():
        aggregate(prepared, replies)
    return watch.time


def aggregate(prepared: Prepared, replies: Iterable[Any]) -> NDArray[np.float64]:
    """The last two stages of Flower's workflow, on answers that are there already."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    cohort = prepared.cohort
    workflow = SecAggPlusWorkflow(1.0, cohort.threshold)
    everyone = set(cohort.nodes)
    state = WorkflowState(
        nid_to_proxies=dict.fromkeys(cohort.nodes),
        nid_to_fitins={node: RecordDict() for node in cohort.nodes},
        sampled_node_ids=set(everyone),
        active_node_ids=set(everyone),
        num_shares=len(everyone),
        threshold=cohort.threshold,
        clipping_range=CLIPPING,
        quantization_range=RANGE,
        mod_range=MODULUS,
        max_weight=MAX_WEIGHT,
        nid_to_neighbours={node: set(everyone) for node in cohort.nodes},
        nid_to_publickeys=cohort.keys,
        forward_srcs={node: [] for node in cohort.nodes},
        forward_ciphertexts={node: [] for node in cohort.nodes},
    )
    context, strategy = _context()
    unmasking = [_message(node, answer) for node, answer in prepared.answers.items()]
    for stage, said in (
        (workflow.collect_masked_vectors_stage, replies),
        (workflow.unmask_stage, unmasking),
    ):
        grid: Any = SimpleNamespace(send_and_receive=lambda *_, said=said, **__: said)
        if not stage(grid, context, state):
            sys.exit("Flower's workflow gave up")
    return parameters_to_ndarrays(strategy.parameters)[0]


def _context() -> tuple[Any, Any]:
    """What the workflow wants around it; the strategy takes the mean and does nothing with it."""
    strategy = SimpleNamespace(parameters=None)

    def take(_: int, results: list[Any], __: list[Any]) -> tuple[None, dict[str, Any]]:
        strategy.parameters = results[0][1].parameters
        return None, {}

    strategy.aggregate_fit = take
    config = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    state = RecordDict({MAIN_CONFIGS_RECORD: config})
    return SimpleNamespace(state=state, strategy=strategy), strategy


def reply(node: int, vectors: list[bytes]) -> Any:  # noqa: ANN401
    """A client's answer with its masked vectors, as the workflow sees it."""
    return _message(node, {Key.MASKED_PARAMETERS: vectors}, fit_result())


def fit_result() -> RecordDict:
    """What the mod leaves of the app's answer beside the masked vectors."""
    empty = Parameters(tensors=[], tensor_type="numpy.ndarray")
    return compat.fitres_to_recorddict(FitRes(Status(Code.OK, ""), empty, WEIGHT, {}), True)


def _message(node: int, answer: Any, content: RecordDict | None = None) -> Any:  # noqa: ANN401
    content = content or RecordDict()
    content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(answer)
    metadata = SimpleNamespace(src_node_id=node)
    return SimpleNamespace(content=content, metadata=metadata, has_error=lambda: False)


def error_of_sum(clients: int, dropped: int, size: int) -> float:
    """Largest error of a coordinate of the mean, in units of Flower's quantum."""
    cohort = Cohort(clients)
    rng = np.random.default_rng(3)
    updates = [rng.standard_normal(size, dtype=np.float32) for _ in cohort.nodes]
    replies = [_message(n, said, fit_result()) for n, said in masked_of_all(cohort, updates)]
    active, dead = cohort.nodes[dropped:], cohort.nodes[:dropped]
    asked: Any = {Key.ACTIVE_NODE_ID_LIST: active, Key.DEAD_NODE_ID_LIST: dead}
    answers = {node: _unmask(cohort.states[node], asked) for node in active}
    found = aggregate(Prepared(cohort, active, answers), replies[dropped:])
    plain = np.mean([update.astype(float) for update in updates[dropped:]], axis=0)
    return float(np.abs(found - plain).max() * (WEIGHT / MAX_WEIGHT) * RANGE / (2 * CLIPPING))
