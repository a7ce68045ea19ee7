"""A request that gets no answer, and what its sender is told."""

from __future__ import annotations

from fedward.study.errors import DataError, FedwardError, MissingExtra


class Refusal(FedwardError):  # noqa: N818 - reads as the fact that it states
    """A request that is not answered.

    Args:
        status: HTTP status, 400 to 599.
        what: What is wrong with it, as a clause.
        todo: What its sender can do.
    """

    def __init__(self, status: int, what: str, *, todo: str = "") -> None:
        self.status = status
        super().__init__(what, todo=todo)

    def sentence(self) -> str:
        """What the sender reads: one sentence."""
        line = self.line()
        return f"{line[:1].upper()}{line[1:]}."


def refusal_of(error: FedwardError) -> Refusal:
    """What the sender of a file is told of an error about it: the file's own fault, or ours."""
    where = f"{error.where}: " if error.where else ""
    if isinstance(error, DataError):
        return Refusal(400, f"{where}{error.what}", todo=error.todo)
    if isinstance(error, MissingExtra):
        return Refusal(415, f"{where}{error.what}", todo="ask whoever runs the service")
    return Refusal(500, "the service cannot read this file", todo="ask whoever runs the service")
