"""The version of Fedward that is installed here."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("fedward")
