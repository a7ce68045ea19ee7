"""What may be said of the patients behind synthetic images, in words and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward.privacy.schedule import epsilon_after
from fedward.study.errors import DataError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

UNPROTECTED = "These images may show real patients: the generator was trained without privacy."
SIMULATED = (
    "These images may show real patients: the run was a simulation, whose noise is seeded and can "
    "be drawn again, so it protects nobody."
)


class Spent(BaseModel):
    """What one hospital's ledger came to.

    Attributes:
        epsilon: Of all that was charged for its patients.
        delta: With which that holds.
        noise: `seeded` noise of a simulation protects nobody.
    """

    model_config = ConfigDict(frozen=True)

    epsilon: float | None
    delta: float | None
    noise: Literal["seeded", "none"]


class Statement(BaseModel):
    """What may be said.

    Attributes:
        protects: Whether privacy was on, with noise that nobody can draw again.
        study: Its name.
        digest: Of the study.
        images: How many were made.
        seed: That they were made with.
        unit: Whom it protects; None if nobody.
        accountant: That added the charges up; None without privacy.
        epsilon: What the whole run charges each hospital, by the study; None without privacy, and
            where it depends on how many patients a hospital declares.
        delta: The study's; None without privacy.
        chosen: Whether validation sums without noise chose which round's generator it is.
        hospitals: What each ledger came to; empty where ledgers are not here, as in a deployment:
            they never leave their hospitals.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    protects: bool
    study: str
    digest: str
    images: int
    seed: int
    unit: Literal["patient"] | None = None
    accountant: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    chosen: bool = False
    hospitals: dict[str, Spent] = Field(default_factory=dict)

    def document(self) -> bytes:
        """For programs: JSON."""
        values = self.model_dump(mode="json") | {"words": self.words().splitlines()[0]}
        return json.dumps(values, indent=2, allow_nan=False).encode() + b"\n"

    def words(self) -> str:
        """For people: Markdown, the most important line first."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield self._first()
        yield ""
        yield (
            f"{self.images} images of the study {self.study!r} (digest {self.digest}), made with "
            f"seed {self.seed} by `fedward synthesize`."
        )
        if self.accountant is None:
            yield ""
            yield "Treat them as you treat the records that they were learnt from."
            return
        yield ""
        yield f"| hospital | epsilon | delta | accountant |{' noise |' if self.hospitals else ''}"
        yield f"|---|---|---|---|{'---|' if self.hospitals else ''}"
        for name, spent in self.hospitals.items():
            epsilon, delta = _number(spent.epsilon), _number(spent.delta)
            shown = name.replace("|", "\\|")
            yield f"| {shown} | {epsilon} | {delta} | {self.accountant} | {spent.noise} |"
        if not self.hospitals:
            epsilon = "by its declared patients" if self.epsilon is None else f"{self.epsilon:.4g}"
            delta = _number(self.delta)
            yield f"| each, for this whole run | {epsilon} | {delta} | {self.accountant} |"
            yield ""
            yield (
                "Ledgers stay at their hospitals: what was charged to a hospital's patients in "
                "all its studies, the hospital sees in its own budget."
            )
        yield ""
        yield "What it means"
        yield ""
        yield (
            "- Hospitals trained the discriminator on their records with noise; the generator has "
            "seen nothing but the discriminator. So these images, as many as you make, cost the "
            "patients nothing beyond the epsilon above (post-processing)."
        )
        yield (
            "- Whatever somebody concludes from the images, he would have concluded about as often "
            "had one patient's records not been there: the chances differ by a factor of at most "
            "e^epsilon, but for delta."
        )
        yield ""
        yield "What it does not mean"
        yield ""
        yield (
            "- It protects each patient at each hospital. What is spent on a patient who is at two "
            "hospitals adds up, and so do other studies on the same records."
        )
        yield (
            "- What is true of many patients alike, as how a disease looks in a hospital's "
            "images, may be seen. That is what was to be learnt."
        )
        yield (
            "- Validation and test metrics of the run left as sums without noise; epsilon does not "
            "count them, and the generator was not trained on them."
        )
        if self.chosen:
            yield (
                "- Which round's generator it is was chosen on validation sums without noise "
                "(early stopping): epsilon does not count that choice, in which validation "
                "patients' records had a part."
            )
        yield (
            "- A large epsilon protects little, and images are not fit for a purpose because they "
            "are private: judge them for it."
        )

    def _first(self) -> str:
        if self.accountant is None:
            return UNPROTECTED
        if not self.protects:
            return SIMULATED
        epsilon = "" if self.epsilon is None else f" epsilon {self.epsilon:.4g} and"
        return (
            "These images are differentially private for each patient at each hospital, with"
            f"{epsilon} delta {_number(self.delta)}."
        )


def statement_of(study: Study, run: Path, *, count: int, seed: int) -> Statement:
    """What may be said of a run's images.

    Args:
        study: The run's, settled.
        run: Its folder; a simulation's holds what the ledgers came to.
        count: Of images.
        seed: That they are made with.

    Raises:
        DataError: What the ledgers came to cannot be read: nothing is said by halves.
    """
    privacy = study.privacy
    plain = Statement(
        protects=False, study=study.study.name, digest=study.digest(), images=count, seed=seed
    )
    if not isinstance(privacy, LocalPrivacy):
        return plain
    ledgers = _ledgers(run / "result.json", study)
    return plain.model_copy(
        update={
            "protects": not ledgers,
            "unit": "patient",
            "accountant": privacy.accountant,
            "epsilon": epsilon_after(study, study.training.rounds),
            "delta": privacy.delta,
            "chosen": study.training.early_stopping is not None,
            "hospitals": ledgers,
        }
    )


def _ledgers(path: Path, study: Study) -> dict[str, Spent]:
    """By hospital, from a simulation's result; none where the run was no simulation."""
    try:
        result = json.loads(path.read_bytes())
        if result["study"]["digest"] != study.digest():
            raise ValueError("it is of another study")
        found = {name: Spent.model_validate(spent) for name, spent in result["privacy"].items()}
        if not found:
            raise ValueError("it tells of no hospital")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DataError(
            f"does not tell what the ledgers came to ({' '.join(str(error).split())[:200]})",
            todo="give the folder of a run as it was written",
            where=str(path),
        ) from None
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
