"""Whole simulations with secure sums of algorithms that keep something at the hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from fedward.simulation.simulate import Options, simulate
from fedward.study.study import Study
from tests.simulation.conftest import study_of

LEARNT: list[dict[str, Any]] = [
    {"aggregation": {"strategy": "scaffold"}},
    {"aggregation": {"strategy": "fedbn"}},
    {"aggregation": {"strategy": "fedper"}},
    {"aggregation": {"strategy": "ditto", "proximal_lambda": 0.3}},
    {"training": {"fine_tuning": {"steps": 3, "learning_rate": 0.1}}},
]


def document(study: Study, out: Path, data: Path) -> dict[str, Any]:
    options = Options(out=out, data=data, workers=1, baselines=False)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    found: dict[str, Any] = json.loads((out / "result.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("change", LEARNT, ids=lambda c: str(*c.values()))
def test_secure_sums_and_plain_ones_come_to_the_same(
    change: dict[str, Any], table: Path, tmp_path: Path
) -> None:
    """Up to what a secure sum rounds."""
    models, found = [], []
    for secure in (True, False):
        tables = {**change, "aggregation": {**change.get("aggregation", {}), "secure": secure}}
        out = tmp_path / str(secure)
        found.append(document(study_of(**tables), out, table))
        file = load_file(out / "model.safetensors")
        models.append(np.concatenate([entry.numpy().ravel() for entry in file.values()]))

    np.testing.assert_allclose(models[0], models[1], atol=1e-4)
    for one, other in zip(*(list(each["metrics"].values())[:2] for each in found), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one["records"] == other["records"]
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)
    personal = found[0]["metrics"]["personal"]
    kept = list((tmp_path / "True").rglob("personal-model.safetensors"))
    named = change.get("aggregation", {}).get("strategy")
    assert (personal is not None) == (named in {"ditto", None})
    assert len(kept) == (0 if named == "scaffold" else 3)
