"""A study and its records, ready to be trained on: a private one never without its patients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedward.study.study import Study
from tests.client.conftest import DECLARED, SEED, House


def test_a_private_study_of_nobody_cannot_be_trained_plainly(private: Study, house: House) -> None:
    """Steps, measuring and judging are private where patients are named: they always are."""
    loaded = house.site(**SEED, **DECLARED).load(private.digest())
    assert loaded.patients is not None

    with pytest.raises(ValueError, match="not a word on whose the records are"):
        replace(loaded, patients=None)


def test_a_study_without_privacy_names_nobody(study: Study, house: House) -> None:
    assert house.site(**SEED).load(study.digest()).patients is None
