"""Real hospitals in a real consortium, and an honest aggregator that a test leads by the hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fedward.client.data.sources import CsvSource
from fedward.client.hospital import HospitalFile, Limits, Pretended, read_hospital, write_hospital
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.privacy.advert import unpack
from fedward.privacy.contribution import Layout, Total
from fedward.privacy.encoding import Encoding
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_messages import Attempt
from fedward.simulation.consortium import found_consortium
from fedward.study.messages import (
    Advertised,
    AdvertiseQuery,
    EvaluateRequest,
    Invitation,
    Masked,
    MaskedContribution,
    Part,
    Request,
    TrainRequest,
    Unmasked,
    UnmaskQuery,
    Vector,
    Words,
)
from fedward.study.study import Study, parse_study
from fedward.study.threshold import shares_needed

PRIVATE: dict[str, Any] = {
    "mode": "local",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}
"""Privacy, so that every training is charged and never gives the same update twice."""


def study_of(**tables: dict[str, Any]) -> Study:
    """A secure study of two numbers, for three hospitals; tables named here extend these."""
    values: dict[str, dict[str, Any]] = {
        "study": {"name": "tiny"},
        "task": {"kind": "binary", "classes": ["benign", "malignant"]},
        "model": {"name": "mlp", "hidden": []},
        "data": {
            "kind": "table",
            "features": {"age": {}, "size": {}},
            "label": "diagnosis",
            "parts": {"by": "random", "train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "training": {"rounds": 3, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.3},
        "aggregation": {"strategy": "fedavg", "max_records": 64, "clip": 10.0},
        "participation": {"hospitals": 3, "deadline_seconds": 20.0},
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table}
    if "privacy" in values:
        values["data"]["parts"] |= {"by": "hash", "seed": 1848}  # which keeps the shares exactly
    return settled(parse_study(values))


class Sites:
    """Hospitals a, b, c, ... over files of their own, members of one consortium.

    Attributes:
        names: Of all of them.
        files: Each one's `hospital.toml`.
        coordinator: Of their consortium.
    """

    def __init__(self, folder: Path, study: Study, *, seed: int | None = None) -> None:
        """Found them; with a seed they are pretended, and can be compared with others of it."""
        self.names = tuple("abcdefghijklmnop"[: study.participation.hospitals])
        self.files = {name: _home(folder, name, seed) for name in self.names}
        self.coordinator = found_consortium(list(self.files.values()))
        self.approve(study)
        self._sites: dict[str, Site] = {}

    def __getitem__(self, name: str) -> Site:
        """The hospital, the same object each time."""
        if name not in self._sites:
            self._sites[name] = Site(read_hospital(self.files[name]), self.files[name].parent)
        return self._sites[name]

    def restart(self) -> None:
        """Every hospital's process ends; what is asked next is answered by a new one."""
        self._sites.clear()

    def approve(self, study: Study) -> None:
        """Every hospital approves one more study."""
        text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
        for file in self.files.values():
            approved = file.parent / "studies" / f"{study.digest()[:16]}.toml"
            approved.parent.mkdir(exist_ok=True)
            approved.write_text(text, encoding="utf-8")

    def state(self, name: str) -> Path:
        """The folder where a hospital keeps its state."""
        return self.files[name].parent / "state"

    def charges(self) -> dict[str, int]:
        """How often each hospital's ledger was charged: once for every training."""
        return {name: self._count(name, "ledger.sqlite", "charge") for name in self.names}

    def masked(self, name: str) -> int:
        """How many attempts a hospital's journals say that it masked for."""
        files = self.state(name).rglob("journal.sqlite")
        return sum(
            self._count(name, str(file.relative_to(self.state(name))), "attempt") for file in files
        )

    def _count(self, name: str, file: str, table: str) -> int:
        if not (self.state(name) / file).exists():
            return 0
        with closing(sqlite3.connect(self.state(name) / file)) as db:
            return int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608


class Run:
    """One run of a study: what an honest aggregator asks, and what it makes of the answers."""

    def __init__(self, sites: Sites, study: Study, name: str = "run-1") -> None:
        self.sites = sites
        self.study = study
        self.name = name
        self.model: Vector = flat.flatten(build(study, seed=1))

    @cached_property
    def adverts(self) -> dict[str, bytes]:
        """Each hospital's packed advert."""
        found = {}
        for name in self.sites.names:
            answer = self.sites[name].answer(lambda: self.advertise())
            assert isinstance(answer, Advertised), answer
            found[answer.hospital] = answer.advert
        return found

    def advertise(self) -> AdvertiseQuery:
        return AdvertiseQuery(self.study.digest(), self.name)

    def invitation(self, attempt: int = 1, names: Iterable[str] | None = None) -> Invitation:
        chosen = self.sites.names if names is None else names
        return Invitation(attempt, tuple(self.adverts[name] for name in chosen))

    def train(
        self, number: int = 1, attempt: int = 1, names: Iterable[str] | None = None
    ) -> TrainRequest:
        """The request to train in a round."""
        return TrainRequest(
            study=self.study.digest(),
            run=self.name,
            round=number,
            model=self.model,
            invitation=self.invitation(attempt, names),
        )

    def evaluate(self, part: Part = "test", attempt: int = 1) -> EvaluateRequest:
        """The request to judge the model on a part."""
        number = self.study.judging_round(part)
        invitation = self.invitation(attempt)
        return EvaluateRequest(
            self.study.digest(), self.name, number, self.model, part, invitation=invitation
        )

    def mask(self, request: Request, names: Iterable[str] | None = None) -> dict[str, Masked]:
        """What hospitals answer to a request, which all of them must take."""
        found = {}
        for name in self.sites.names if names is None else names:
            answer = self.sites[name].answer(lambda: request)
            assert isinstance(answer, MaskedContribution), answer
            found[name] = answer.masked
        return found

    def queries(
        self, request: Request, masked: Mapping[str, Masked], survivors: Iterable[str] | None = None
    ) -> dict[str, UnmaskQuery]:
        """What is asked of each survivor; those are all who masked, if none are named."""
        named = tuple(masked if survivors is None else survivors)
        assert request.invitation is not None
        return {
            holder: UnmaskQuery(
                self.study.digest(),
                self.name,
                request.round,
                request.invitation,
                named,
                {sender: masked[sender].shares[holder] for sender in named},
            )
            for holder in named
        }

    def open(self, request: Request, masked: Mapping[str, Masked]) -> Words:
        """The sum over those who masked, with the help of each of them."""
        assert request.invitation is not None
        adverts = tuple(unpack(packed) for packed in request.invitation.adverts)
        terms, invited = self.study.aggregation, len(adverts)
        threshold = shares_needed(
            hospitals=invited, colluding=terms.colluding, min_honest=terms.min_honest
        )
        number = request.invitation.attempt
        attempt = Attempt(request.study, request.run, request.round, number, b"", adverts)
        total = SecureSum(attempt, size=self.code(request).size, threshold=threshold)
        for name, answer in masked.items():
            total.add(name, answer)
        total.unmask_requests()
        for name, query in self.queries(request, masked).items():
            helped = self.sites[name].answer(lambda query=query: query)  # type: ignore[misc]
            assert isinstance(helped, Unmasked), helped
            total.take(name, helped.unmasking)
        return total.total()

    def play(self, request: Request) -> Total:
        """An honest exchange with everybody who is invited."""
        assert request.invitation is not None
        invited = [unpack(packed).hospital for packed in request.invitation.adverts]
        return self.code(request).decode(self.open(request, self.mask(request, invited)))

    def layout(self, request: Request) -> Layout:
        task = task_of(self.study)
        parameters = len(self.model) if isinstance(request, TrainRequest) else 0
        return Layout(parameters, task.size, task.reals)

    def code(self, request: Request) -> Encoding:
        who = self.study.participation
        most = who.asked if isinstance(request, TrainRequest) else who.hospitals
        return Encoding(self.layout(request), self.study.aggregation, hospitals=most)


def again(request: TrainRequest, attempt: int) -> TrainRequest:
    """The same request, asked once more."""
    assert request.invitation is not None
    return replace(request, invitation=replace(request.invitation, attempt=attempt))


def _home(folder: Path, name: str, seed: int | None) -> Path:
    file = folder / name / "hospital.toml"
    file.parent.mkdir(parents=True)
    rng = np.random.default_rng(ord(name))
    count = 30 + 5 * (ord(name) - ord("a"))
    sick = np.arange(count) % 2
    ages, sizes = rng.normal(size=(2, count)) + 1.5 * sick
    words = np.array(["benign", "malignant"])[sick]
    lines = [f"{a},{s},{w}" for a, s, w in zip(ages, sizes, words, strict=True)]
    (file.parent / "t.csv").write_text("\n".join(["age,size,diagnosis", *lines]) + "\n", "utf-8")
    hospital = HospitalFile(
        name=name,
        device="cpu",
        data=CsvSource(format="csv", path="t.csv", patient="record"),
        limits=Limits(declared_patients=20),
        simulation=None if seed is None else Pretended(seed=seed),
    )
    write_hospital(hospital, file)
    return file
