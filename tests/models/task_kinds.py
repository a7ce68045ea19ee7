"""A task of each kind in a study, and records for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TABLE: dict[str, object] = {"kind": "table", "features": {"a": {}, "b": {}}}
IMAGES: dict[str, object] = {"kind": "images", "shape": [1, 6, 5]}
KINDS: dict[str, dict[str, object]] = {
    "binary": {"task": {"kind": "binary", "classes": ["no", "yes"]}},
    "multiclass": {"task": {"kind": "multiclass", "classes": ["a", "b", "c"]}},
    "multilabel": {
        "task": {"kind": "multilabel", "classes": ["x", "y", "z"]},
        "data": TABLE | {"label": ["x", "y", "z"]},
    },
    "regression": {"task": {"kind": "regression", "bounds": [20, 100]}},
    "survival": {
        "task": {"kind": "survival", "intervals": [1, 2, 4, 8]},
        "data": TABLE | {"label": ["time", "event"]},
    },
    "cox": {
        "task": {"kind": "survival", "intervals": [1, 2, 4, 8], "loss": "cox"},
        "data": TABLE | {"label": ["time", "event"]},
    },
    "segmentation": {
        "task": {"kind": "segmentation", "classes": ["rest", "lung", "heart"]},
        "data": IMAGES,
    },
    "reconstruction": {
        "task": {"kind": "reconstruction"},
        "data": TABLE | {"label": []},
    },
}


def records(kind: str, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs that know something of the truth, and the truth."""
    rng = np.random.default_rng(seed)
    normal = torch.tensor(rng.normal(size=(count, 4)), dtype=torch.float32)
    match kind:
        case "binary" | "multiclass":
            k = 2 if kind == "binary" else 3
            labels = torch.tensor(rng.integers(0, k, count))
            return normal[:, :k] + 1.5 * functional.one_hot(labels, k), labels
        case "multilabel":
            truth = torch.tensor(rng.integers(0, 2, (count, 3)), dtype=torch.float32)
            return normal[:, :3] + truth, truth
        case "regression":
            truth = torch.tensor(rng.uniform(10, 110, count), dtype=torch.float32)
            return (truth.clamp(20, 100).unsqueeze(1) - 60) / 40 + normal[:, :1] / 5, truth
        case "survival" | "cox":
            risk = rng.normal(size=count)
            times = rng.exponential(4 * np.exp(-risk))
            seen = times < (ends := rng.uniform(0, 12, count))
            told = np.stack([np.where(seen, times, ends), seen], axis=1)
            outputs = torch.tensor(risk, dtype=torch.float32).unsqueeze(1) + normal[:, :1] / 2
            if kind == "survival":
                outputs = outputs + torch.tensor([-1.5, -1.5, -1.0, 0.0])
            return outputs, torch.tensor(told, dtype=torch.float32)
        case "segmentation":
            truth = torch.tensor(rng.integers(0, 3, (count, 6, 5)))
            logits = torch.tensor(rng.normal(size=(count, 3, 6, 5)), dtype=torch.float32)
            return logits + functional.one_hot(truth, 3).movedim(3, 1), truth
        case _:
            found = torch.cat([normal * 0.9, normal[:, :1].square()], dim=1)
            return found, normal
