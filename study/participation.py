"""Who takes part in the rounds: the contract's table `participation`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen


class Participation(Frozen):
    """Who takes part.

    Attributes:
        hospitals: Hospitals in the federation.
        invited: Hospitals asked in each round, drawn at random; all of them if left out.
        min_hospitals: Fewest answers with which a round counts; all that were invited if left out.
        wait_seconds: How long to wait for hospitals before the first round.
        deadline_seconds: How long one exchange may take before late answers are dropped.
    """

    hospitals: Annotated[int, Field(ge=1, le=100_000)]
    invited: Annotated[int, Field(ge=1)] | None = None
    min_hospitals: Annotated[int, Field(ge=1)] | None = None
    wait_seconds: Annotated[float, Field(gt=0)] = 600.0
    deadline_seconds: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _numbers_fit(self) -> Participation:
        if self.asked > self.hospitals:
            raise ValueError(f"invited <= hospitals, but {self.asked} > {self.hospitals}")
        if self.fewest > self.asked:
            raise ValueError(
                f"min_hospitals <= hospitals asked in a round, but {self.fewest} > {self.asked}"
            )
        return self

    @property
    def asked(self) -> int:
        """Hospitals asked in each round."""
        return self.hospitals if self.invited is None else self.invited

    @property
    def fewest(self) -> int:
        """Fewest answers with which a round counts."""
        return self.asked if self.min_hospitals is None else self.min_hospitals
