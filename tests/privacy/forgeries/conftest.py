"""A round in which nobody has masked yet, and one in which all have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from fedward.privacy.secure_hospital import Trust
from tests.privacy.conftest import Consortium, fast_folder, random_words
from tests.privacy.forgeries.second_attempt import IDENTITY_OF_F, NAMES, SIZE, Scene


@pytest.fixture
def invited() -> Iterator[Scene]:
    """Nobody has masked yet; a has once, for the first attempt."""
    with fast_folder() as folder:
        consortium = Consortium(folder, 5, Trust(0, 2))
        consortium.roster = replace(
            consortium.roster, members={**consortium.roster.members, "f": IDENTITY_OF_F.public}
        )
        data = {name: random_words(ord(name), SIZE) for name in NAMES}
        first = consortium.attempt(server_round=3)
        consortium.mask(first, {"a": data["a"]})
        yield Scene(consortium, consortium.attempt(server_round=3, number=2), data, {})


@pytest.fixture
def scene(invited: Scene) -> Scene:
    """All have masked, and e is late."""
    invited.masked = invited.mask_all(invited.attempt)
    return invited
