"""MONAI's networks, for those families that are MONAI's; imported only where one is built."""

from __future__ import annotations

from types import ModuleType

from fedward.study.errors import OptionError


def monai_nets() -> ModuleType:
    """The module `monai.networks.nets` (1.6).

    Raises:
        OptionError: MONAI is not installed.
    """
    try:
        import monai.networks.nets
    except ImportError as error:
        raise OptionError(
            f"this model needs MONAI, which is not there ({error})",
            todo="pip install 'fedward[imaging]'",
        ) from None
    nets: ModuleType = monai.networks.nets
    return nets
