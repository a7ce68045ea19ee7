"""Tables that a study may have."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]

LOCAL: Values = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1}
EACH: Values = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "patients_per_step": 8}
IMAGES: Values = {"kind": "images", "shape": [1, 8, 8]}
