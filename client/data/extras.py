"""Libraries that only some hospitals need."""

from __future__ import annotations

import importlib
from types import ModuleType

from fedward.study.errors import OptionError


def need(module: str, *, extra: str) -> ModuleType:
    """A module of a library that comes with an extra.

    Args:
        module: Its name for `import`.
        extra: Of Fedward: `imaging`, `signals`, `text` or `records`.

    Raises:
        OptionError: It is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and lacks something itself
        raise OptionError(
            f"{error.name} is not installed, which these files need",
            todo=f"pip install 'fedward[{extra}]'",
        ) from None
