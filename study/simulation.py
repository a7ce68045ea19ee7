"""How a researcher's one data set becomes many pretended hospitals. No part of the contract."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen


class Download(Frozen):
    """Where the data set can be had from, when no path was given.

    Attributes:
        url: Address of one file.
        md5: Digest that its publisher states, 32 hexadecimal digits.
        licence: What the publisher allows.
    """

    url: Annotated[str, Field(pattern=r"^https://")]
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    licence: str = ""


class Failure(Frozen):
    """A message that gets lost, on purpose.

    Attributes:
        hospital: Its name.
        exchange: What was asked of it.
        round: Of training, or after the last one of judging, or 0 of measuring; every round if left
            out.
        attempt: Of that round; every attempt if left out.
        worked: Whether the hospital does its work and only its answer is lost.
        again: How often the same question, asked again, is lost too; for ever if left out.
    """

    hospital: str
    exchange: Literal["measure", "train", "evaluate", "unmask"]
    round: Annotated[int, Field(ge=0)] | None = None
    attempt: Annotated[int, Field(ge=1)] | None = None
    worked: bool = False
    again: Annotated[int, Field(ge=0)] | None = None


class Simulation(Frozen):
    """How a simulation makes its hospitals.

    Attributes:
        split: `iid`, `patients` (whole patients, at random), `site` (by a column), `dirichlet`
            (label skew, Hsu, Qi and Brown 2019), `quantity` (sizes by `shares`), or `folders`
            (one folder or file is one hospital).
        alpha: Concentration of `dirichlet`; small is skewed.
        shares: Relative sizes for `quantity`, one a hospital.
        site: Column of `site`.
        files: For `folders`: the hospital's name and its file, below the data's path.
        source: What each `hospital.toml` says about its data beside the path.
        sources: For `folders`: what a hospital's file says beyond that, by the hospital's name.
        download: Where the data can be had from.
        drop: Probability with which any message after the first is lost, before the hospital's
            work or after it.
        failures: Messages that are lost for certain: who fails when.
    """

    split: Literal["iid", "patients", "site", "dirichlet", "quantity", "folders"] = "iid"
    alpha: Annotated[float, Field(gt=0)] = 0.5
    shares: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    site: str | None = None
    files: dict[str, str] | None = None
    source: dict[str, Any] = Field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = Field(default_factory=dict)
    download: Download | None = None
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    failures: tuple[Failure, ...] = ()

    @model_validator(mode="after")
    def _split_has_what_it_needs(self) -> Simulation:
        if self.split == "site" and self.site is None:
            raise ValueError("a site column when split is site")
        if self.split == "quantity" and self.shares is None:
            raise ValueError("shares when split is quantity")
        if self.files is not None and self.split != "folders":
            raise ValueError("files only when split is folders")
        if strange := [name for name in self.sources if name not in (self.files or {})]:
            raise ValueError(f"sources only of hospitals that files names, not {strange[0]!r}")
        return self
