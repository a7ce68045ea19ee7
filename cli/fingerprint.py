"""A fingerprint that a person compares by telephone before anything is done with a key."""

from __future__ import annotations

import sys

import typer

from fedward.cli.console import output
from fedward.privacy.enrolment import same_fingerprint
from fedward.study.errors import OptionError


def confirm(right: str, given: str | None, *, whose: str, option: str) -> None:
    """Go on only if the fingerprint was compared: given as an option, or with a yes at a terminal.

    Args:
        right: The fingerprint of what is about to be trusted.
        given: What was given for the option, or None: then a person at the terminal is asked.
        whose: Whose fingerprint it is, for the question.
        option: The option's name, for the error.

    Raises:
        OptionError: They differ, nobody is there to be asked, or the answer is no.
    """
    output.print(f"fingerprint of {whose}: {right}")
    if given is not None:
        if not same_fingerprint(given, right):
            raise OptionError(
                f"this is not the fingerprint of {whose}: the file was exchanged, or it is an "
                "older one",
                todo="ask by telephone, and do not go on before both are the same",
                where=option,
            )
        return
    if not sys.stdin.isatty():
        raise OptionError(
            "the fingerprint was not compared",
            todo=f"read it out by telephone, then give it: {option} FINGERPRINT",
            where=option,
        )
    if not typer.confirm("Is it the same at the other end of the telephone?", default=False):
        raise OptionError(
            "the fingerprints differ", todo="nothing was changed; ask for the file again"
        )
