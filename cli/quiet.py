"""Keeping libraries from talking between a command's own lines."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Let Flower and Opacus log errors only, and Python warnings stay with developers.

    Flower sets its level when it is imported, so this comes after the imports.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for name in ("opacus", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("fedward").setLevel(logging.CRITICAL)  # the command tells errors itself
    warnings.filterwarnings("ignore")
