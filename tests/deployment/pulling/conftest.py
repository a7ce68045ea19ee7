"""Two hospitals' lines to the shared SuperLink, and the server's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedward.server.quick_grid import QuickGrid, quick
from tests.deployment.pulling.hospital_line import Line
from tests.superlink_ward import ServerSide, Ward


@pytest.fixture
def lines(ward: Ward) -> Iterator[tuple[Line, Line]]:
    pair = Line(ward), Line(ward)
    yield pair
    for line in pair:
        line.fleet.close()


@pytest.fixture
def grid(server: ServerSide) -> Iterator[QuickGrid]:
    """The server's line made quick, for one run."""
    with quick(server.grid) as made:
        assert isinstance(made, QuickGrid)
        yield made
