"""The other peer's rounds: NVFLARE's simulator and its NumPy FedAvg, clients that do nothing.

Its simulator keeps server and clients in processes of this machine, without TLS and in the clear.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

_CLIENT = """\
import sys
import time

import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    with open(sys.argv[1], "a", encoding="utf-8") as out:
        out.write(f"{time.time()}\\n")
    flare.send(flare.FLModel(params=model.params, params_type="FULL", metrics={"accuracy": 0.0}))
"""


def nvflare_rounds(folder: str, *, parameters: int, hospitals: int, rounds: int) -> dict[str, Any]:
    """Seconds between the starts of rounds, as the first client of each sees them.

    Args:
        folder: Empty.
        parameters: Length of the model.
        hospitals: Clients.
        rounds: To be timed.
    """
    import numpy as np
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe import SimEnv

    place = Path(folder)
    script, times = place / "client.py", place / "times.txt"
    script.write_text(_CLIENT, encoding="utf-8")
    checkpoint = place / "model.npy"
    np.save(checkpoint, np.zeros(parameters, dtype=np.float32))
    recipe = NumpyFedAvgRecipe(
        name="rounds",
        initial_ckpt=str(checkpoint),
        min_clients=hospitals,
        num_rounds=rounds + 2,
        train_script=str(script),
        train_args=str(times),
    )
    recipe.execute(SimEnv(num_clients=hospitals, num_threads=hospitals, workspace_root=folder))
    seen = sorted(map(float, times.read_text(encoding="utf-8").split()))
    starts = seen[::hospitals]
    return {"seconds": [b - a for a, b in itertools.pairwise(starts)]}
