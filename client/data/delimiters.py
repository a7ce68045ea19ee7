"""What stands between two values of a table in a text file, where nobody says it."""

from __future__ import annotations


def delimiter_of(name: str) -> str:
    """A tab where a file's name ends in `.tsv` (packed too: `.tsv.gz`), else a comma."""
    return "\t" if name.lower().removesuffix(".gz").endswith(".tsv") else ","
