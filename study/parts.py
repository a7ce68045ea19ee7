"""How a hospital's patients are divided into training, validation and test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen


class GivenParts(Frozen):
    """The hospital's files themselves say which record is for training, validation and test."""

    by: Literal["file"] = "file"


class _Shares(Frozen):
    """A hospital's patients are divided in shares.

    Attributes:
        train: Share of patients to train on.
        validation: Share to choose thresholds on; may be 0.
        test: Share to judge on.
        seed: Seed of the division.
    """

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _whole(self) -> _Shares:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test = 1, not {total:g}")
        return self


class HashedParts(_Shares):
    """Each patient's part follows from the patient's name alone, by a hash with the study's seed.

    Who else is there, and which class anybody is of, changes nothing: privacy needs that, and a
    patient who is added moves nobody. The shares are kept on average.
    """

    by: Literal["hash"] = "hash"


class StratifiedParts(_Shares):
    """A hospital's patients are divided at random, with the classes' shares kept where possible.

    The division is scikit-learn's `train_test_split`: test first, then validation from the rest.
    One patient more changes the part of many others, so no private study may ask for it.
    """

    by: Literal["random"] = "random"


PartsRule = GivenParts | HashedParts | StratifiedParts
