"""The peer's client: the four stages of Flower 1.41's `secaggplus_mod`, as they are.

What is private of Flower here, tested on flwr 1.41: the four stages `_setup`, `_share_keys`,
`_collect_masked_vectors` and `_unmask` of `secaggplus_mod`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.compat.common.typing import Parameters
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray
from secure_aggregation_ours import TRUST
from secure_aggregation_turns import Stopwatch, Time

CLIPPING, RANGE, MODULUS, MAX_WEIGHT, WEIGHT = 8.0, 2**22, 2**32, 1000.0, 500  # Flower's defaults


class Cohort:
    """Clients on the complete graph, as in Flower's `SecAggWorkflow`, with our threshold."""

    def __init__(self, clients: int) -> None:
        self.nodes = list(range(1, clients + 1))
        self.threshold = TRUST.threshold(clients)
        self.states = {node: self.client(node) for node in self.nodes}
        self.keys = {node: [s.pk1, s.pk2] for node, s in self.states.items()}

    def client(self, node: int) -> Any:  # noqa: ANN401
        """A client after the stage `setup`."""
        state = SecAggPlusState()
        state.nid = node
        _setup(state, self.settings())
        return state

    def settings(self) -> Any:  # noqa: ANN401
        """What the server sends in the stage `setup`."""
        return {
            Key.SAMPLE_NUMBER: len(self.nodes),
            Key.SHARE_NUMBER: len(self.nodes),
            Key.THRESHOLD: self.threshold,
            Key.CLIPPING_RANGE: CLIPPING,
            Key.TARGET_RANGE: RANGE,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: MAX_WEIGHT,
        }


def parameters_of(update: NDArray[np.float32]) -> Parameters:
    """An update as Flower's mod gets it from the app."""
    return ndarrays_to_parameters([update])


def client_time(cohort: Cohort, update: Parameters) -> Time:
    """One client's whole round: all four stages."""
    return client_round(cohort, update)[0]


def client_round(cohort: Cohort, update: Parameters) -> tuple[Time, list[tuple[Any, Any]]]:
    """Time of one client's round, and what was asked and answered in each stage."""
    watch = Stopwatch()
    state = SecAggPlusState()
    state.nid = own = cohort.nodes[0]
    asked: Any = cohort.settings()
    with watch.running():
        said: Any = _setup(state, asked)
    stages = [(asked, said)]
    asked = {str(n): k for n, k in {**cohort.keys, own: [state.pk1, state.pk2]}.items()}
    with watch.running():
        said = _share_keys(state, asked)
    stages.append((asked, said))
    asked = _relayed(cohort, state)
    with watch.running():
        said = _collect_masked_vectors(state, asked, WEIGHT, update)
    stages.append((asked, said))
    asked = {Key.ACTIVE_NODE_ID_LIST: cohort.nodes, Key.DEAD_NODE_ID_LIST: []}
    with watch.running():
        said = _unmask(state, asked)
    stages.append((asked, said))
    return watch.time, stages


def _relayed(cohort: Cohort, state: Any) -> Any:  # noqa: ANN401
    """What the others encrypt for this client; the shares in it are of the right length only."""
    some, others = next(iter(state.rd_seed_share_dict)), [n for n in cohort.nodes if n != state.nid]
    shares = state.rd_seed_share_dict[some], state.sk1_share_dict[some]
    ciphertexts = []
    for node in others:
        key = generate_shared_key(
            bytes_to_private_key(cohort.states[node].sk2), bytes_to_public_key(state.pk2)
        )
        plaintext = share_keys_plaintext_concat(node, state.nid, *shares)
        ciphertexts.append(encrypt(key, plaintext))
    return {Key.CIPHERTEXT_LIST: ciphertexts, Key.SOURCE_LIST: others}


def masked_of_all(
    cohort: Cohort, updates: Sequence[NDArray[np.float32]]
) -> Iterator[tuple[int, Any]]:
    """Stages two and three of every client, whose mail is what the others really sent."""
    keys: Any = {str(node): both for node, both in cohort.keys.items()}
    sent: Any = {node: _share_keys(state, keys) for node, state in cohort.states.items()}
    for node, update in zip(cohort.nodes, updates, strict=True):
        mail = [
            (other, text)
            for other, box in sent.items()
            for to, text in zip(box[Key.DESTINATION_LIST], box[Key.CIPHERTEXT_LIST], strict=True)
            if to == node
        ]
        sources, texts = map(list, zip(*mail, strict=True))
        asked: Any = {Key.CIPHERTEXT_LIST: texts, Key.SOURCE_LIST: sources}
        parameters = parameters_of(update)
        yield node, _collect_masked_vectors(cohort.states[node], asked, WEIGHT, parameters)
