"""Where commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

from rich.console import Console

output = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
