"""Every error that a user of Fedward can meet, as one tree.

    FedwardError                      exit code 1
    ├── InputError                    exit code 2: something the user gave
    │   ├── StudyError                a key of a study file
    │   ├── HospitalError             a key of a hospital file
    │   ├── AggregatorError           a key of an aggregator file
    │   ├── DataError                 a record, a column, an image
    │   ├── OptionError               an option of a command
    │   └── MissingExtra              a package that is not installed
    ├── TrainingError                 a hospital could not finish its local work
    ├── ExportError                   a model would not do the same in another format
    ├── AuditError                    patients lose more privacy than is charged
    ├── RefusedError                  a hospital said no, and may
    │   └── BudgetError               its privacy budget does not allow it
    ├── FederationError               the federation cannot go on
    └── ServiceError                  the aggregator's service cannot run

Each error is one line: where, what is wrong, and what to do.
"""

from __future__ import annotations

from pathlib import Path


def printable(text: str) -> str:
    """A text in which nothing is left that moves a terminal's cursor, colours or turns a line."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


class FedwardError(Exception):
    """The root of all errors that Fedward raises on purpose.

    Args:
        what: What is wrong, as a clause without a full stop.
        todo: What the reader can do about it.
        where: The file, the hospital or the key that it is about.
    """

    exit_code = 1

    def __init__(self, what: str, *, todo: str = "", where: str = "") -> None:
        """Keep the parts, so that they can cross the wire and be put together again."""
        self.what = what
        self.todo = todo
        self.where = where
        super().__init__(self.line())

    def line(self) -> str:
        """The whole error on one line."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}; {self.todo}" if self.todo else text
        return printable(" ".join(text.split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by parts: worker processes hand errors back to the parent."""
        return (_rebuild, (type(self), self.what, self.todo, self.where))


def _rebuild(kind: type[FedwardError], what: str, todo: str, where: str) -> FedwardError:
    error = kind.__new__(kind)
    FedwardError.__init__(error, what, todo=todo, where=where)
    return error


class InputError(FedwardError):
    """Something that the user gave cannot be used."""

    exit_code = 2


class _KeyedError(InputError):
    """A key in a file that has a value which is not allowed."""

    def __init__(self, key: str, *, given: str, allowed: str, file: Path | str = "") -> None:
        self.key = key
        self.given = given
        self.allowed = allowed
        where = f"{file}: {key}" if file else key
        super().__init__(f"given {given}", todo=f"allowed: {allowed}", where=where)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by parts, as every error."""
        return (_rebuild_keyed, (type(self), vars(self)))


def _rebuild_keyed(kind: type[_KeyedError], parts: dict[str, str]) -> _KeyedError:
    error = kind.__new__(kind)
    FedwardError.__init__(error, parts["what"], todo=parts["todo"], where=parts["where"])
    vars(error).update(parts)
    return error


class StudyError(_KeyedError):
    """A key of a study file is unknown, has the wrong type or an impossible value."""

    def in_file(self, file: Path | str) -> StudyError:
        """The same error, naming the file that it was found in."""
        return StudyError(self.key, given=self.given, allowed=self.allowed, file=file)


class HospitalError(_KeyedError):
    """A key of a hospital file is unknown, has the wrong type or an impossible value."""


class AggregatorError(_KeyedError):
    """A key of an aggregator file is unknown, has the wrong type or an impossible value."""


class DataError(InputError):
    """Data that a study needs is missing, unreadable or outside what the study allows."""


class OptionError(InputError):
    """An option of a command does not fit the study or the machine."""


class MissingExtra(InputError):  # noqa: N818 - reads as the fact that it states
    """A feature needs a package that is not installed."""


class TrainingError(FedwardError):
    """A hospital could not finish its local work."""


class ExportError(FedwardError):
    """A model cannot be written in another format, or would not do the same there."""


class AuditError(FedwardError):
    """An audit disproved what is charged: the build, or its accounting, is broken."""


class RefusedError(FedwardError):
    """A hospital declined: the study is not approved there, or its budget is spent."""


class BudgetError(RefusedError):
    """A round would cost more privacy than the hospital allows, or its ledger cannot be used."""


class FederationError(FedwardError):
    """The federation as a whole cannot go on."""


class ServiceError(FedwardError):
    """The aggregator's service, or the part of Flower that it runs, cannot do its work."""
