"""One hospital, as it answers the server: a request in, an answer out.

It knows nothing of Flower, sockets or clocks, so simulation, daemon and tests drive the same code.
Approved studies and their records stay loaded between requests.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedward.client.algorithms.any_algorithm import Algorithm
from fedward.client.algorithms.choice import algorithm_of
from fedward.client.approvals import Approval, approved_study, is_approved
from fedward.client.charging import (
    charge_judging,
    charge_measuring,
    charged_steps,
    declared_patients,
    refuse_unnamed,
)
from fedward.client.data.context import LoggedProgress
from fedward.client.data.reading import read_parts
from fedward.client.data.records import Parts, Records
from fedward.client.device import choose_device
from fedward.client.evaluation import mean_loss, metric_sums, noised_sums
from fedward.client.hospital import HospitalFile, models_of
from fedward.client.loaded import Loaded, ready
from fedward.client.local_work import LocalWork, plain_steps
from fedward.client.machine import choose_precision, within_memory
from fedward.client.membership import keep_newest_roster, roster_digest
from fedward.client.offers import file_offer
from fedward.client.personal_model import keep_personal_model
from fedward.client.possible import refuse_impossible
from fedward.client.randomness import generator
from fedward.client.refusal import refusal_of
from fedward.client.scaling import measured_sums, noisy_sums, scaled
from fedward.client.spending import Counted, note_spent
from fedward.client.subgroup_sums import subgroup_sums
from fedward.client.summing import Summing, make_summing, run_folder
from fedward.models.tasks.any_task import Sums
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.contribution import Summand, judged, trained, trained_fairly
from fedward.privacy.ledger import Ledger
from fedward.privacy.precision import Precision
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import LocalSteps
from fedward.study.aggregation import QFedAvg
from fedward.study.errors import RefusedError
from fedward.study.messages import (
    AdvertiseQuery,
    Answer,
    Considered,
    EvaluateRequest,
    MeasureRequest,
    OfferQuery,
    Query,
    Request,
    TrainRequest,
    UnmaskQuery,
)
from fedward.study.privacy import LocalPrivacy
from fedward.study.scaling import Scaling
from fedward.study.study import Study
from fedward.study.version import VERSION

_LOG = logging.getLogger("fedward.client")
_MOST_RUNS = 64  # whose keys are held ready at once


class Site:
    """A hospital that takes part in studies."""

    def __init__(self, hospital: HospitalFile, folder: Path) -> None:
        """Take the hospital's file, already read.

        Args:
            hospital: What its `hospital.toml` says.
            folder: The folder of that file, which its paths are relative to.
        """
        self.hospital = hospital
        self._folder = folder
        self._loaded: dict[str, Loaded] = {}
        self._approvals: dict[str, Approval] = {}
        self._ways: dict[tuple[str, str, str], Summing] = {}
        self._scaled: tuple[Loaded, Scaling, Parts] | None = None

    @cached_property
    def device(self) -> torch.device:
        """The device that this hospital trains on."""
        return choose_device(self.hospital.device)

    @cached_property
    def precision(self) -> Precision:
        """How finely this hospital computes."""
        return choose_precision(self.hospital, self.device)

    @cached_property
    def ledger(self) -> Ledger:
        """The hospital's privacy ledger."""
        return Ledger(self._folder / self.hospital.state / "ledger.sqlite")

    def answer(self, ask: Callable[[], Request | Query]) -> Answer:
        """Answer a request; what the hospital cannot or will not do becomes a typed refusal.

        Args:
            ask: Gives the request, or raises what is wrong with it.
        """
        try:
            request = ask()
            _same_version(request)
            return self._answer(request)
        except Exception as error:
            _LOG.error("%s: %s", type(error).__name__, error)
            _LOG.debug("where it arose", exc_info=True)
            return refusal_of(error, self.hospital)

    def _answer(self, request: Request | Query) -> Answer:
        if isinstance(request, OfferQuery):
            return self._consider(request)
        study = self.load(request.study).study
        summing = self._summing(study, request.study, request.run)
        match request:
            case AdvertiseQuery():
                return summing.advertise(request)
            case UnmaskQuery():
                return summing.unmask(request)
            case MeasureRequest() | TrainRequest() | EvaluateRequest():
                loaded = self._loaded[request.study]
                return summing.contribute(
                    request,
                    lambda: refuse_impossible(
                        request,
                        loaded.study,
                        size=loaded.size_of(request),
                        hospital=self.hospital,
                    ),
                    lambda: self._work(request, loaded),
                    loaded.layout(request),
                    np.random.default_rng(self._generator(request, "rounding").initial_seed()),
                )

    def _consider(self, offer: OfferQuery) -> Considered:
        """File what is offered for a person to read, and say whether one has approved it."""
        keep_newest_roster(offer.roster, self.hospital, self._folder)
        studies = self._folder / self.hospital.studies
        file_offer(offer.signed, offer.study, self.hospital, studies)
        return Considered(self.hospital.name, is_approved(studies, offer.study))

    def _work(self, request: Request, loaded: Loaded) -> Summand:
        with within_memory():
            if isinstance(request, MeasureRequest):
                return self._measure(request, loaded)
            if isinstance(request, TrainRequest):
                return self._train(request, loaded)
            return self._evaluate(request, loaded)

    def _summing(self, study: Study, digest: str, run: str) -> Summing:
        """How contributions to a run leave, kept between its requests until the roster changes."""
        way = (digest, run, roster_digest(self.hospital, self._folder))
        if way not in self._ways:
            if len(self._ways) >= _MOST_RUNS:
                self._ways.clear()
            self._ways[way] = make_summing(self.hospital, self._folder, study, run=run)
        return self._ways[way]

    def load(self, digest: str) -> Loaded:
        """An approved study with its model and this hospital's records, on the device.

        Raises:
            RefusedError: The study is not approved here.
            MemoryExhausted: There is no room for its model or the records.
            PatientsUnnamed: It is private, and the hospital does not say whose its records are.
            InputError: The hospital's data does not offer what the study asks for.
        """
        approval = self._approvals.get(digest)
        if approval is not None and not approval.holds():
            del self._approvals[digest]
            self._loaded.pop(digest, None)  # it is not there if its data could not be read
        if digest not in self._loaded:
            study, path = approved_study(self._folder / self.hospital.studies, digest)
            if isinstance(study.privacy, LocalPrivacy):
                refuse_unnamed(self.hospital)
            self._approvals[digest] = Approval(path, path.stat().st_mtime_ns)
            with within_memory():
                parts = read_parts(self.hospital, study, self._folder, LoggedProgress())
                self.keep(study, parts)
        return self._loaded[digest]

    def keep(self, study: Study, parts: Parts) -> None:
        """Hold a study and its records ready on this hospital's device.

        Raises:
            PrivacyError: The study is private, and its model cannot be trained so.
        """
        self._loaded[study.digest()] = ready(
            study,
            parts,
            state=self._folder / self.hospital.state,
            device=self.device,
            gradients=self.hospital.training.gradients,
            models=models_of(self.hospital, self._folder),
        )

    def _measure(self, request: MeasureRequest, loaded: Loaded) -> Summand:
        """What is measured of the records; with privacy on it is charged here, and noisy."""
        study, patients, records = loaded.study, loaded.patients, loaded.parts["train"]
        privacy = study.privacy
        if not isinstance(privacy, LocalPrivacy) or patients is None:
            return judged(measured_sums(records, study))
        noise_multiplier = charge_measuring(
            request, study, privacy, patients, hospital=self.hospital, ledger=self.ledger
        )
        if self.hospital.simulation is None:
            self._note_spent(request, privacy)
        return judged(
            noisy_sums(
                records,
                study,
                most=privacy.records_per_patient,
                noise_multiplier=noise_multiplier,
                declared=declared_patients(self.hospital),
                sampling=self._stream(request, "sample"),
                noise=self._stream(request, "noise"),
            )
        )

    def _parts(self, request: TrainRequest | EvaluateRequest, loaded: Loaded) -> Parts:
        """The records as the model sees them, kept for as long as the constants are the same."""
        scaling = request.scaling
        if scaling is None:
            return loaded.parts
        kept = self._scaled
        if kept is None or kept[0] is not loaded or kept[1] != scaling:
            kept = (loaded, scaling, scaled(loaded.parts, loaded.study.data, scaling))
            self._scaled = kept
        return kept[2]

    def _train(self, request: TrainRequest, loaded: Loaded) -> Summand:
        study, model, algorithm = loaded.study, loaded.model, self._algorithm(request, loaded)
        algorithm.receive(model, request)  # first: what fails from here on counts as failed
        parts = self._parts(request, loaded)
        records = parts["train"]
        if isinstance(study.privacy, LocalPrivacy):
            model = copy.deepcopy(model)  # private steps hook the network that they train
        work = self._local_work(request, loaded, records, self.steps_for(request, loaded))
        sums = np.zeros(loaded.task.size)
        if request.monitor is not None:
            sums = self._sums(request, model, loaded, parts[request.monitor])
        loss = 0.0
        if isinstance(study.aggregation, QFedAvg):
            loss = mean_loss(model, records, loaded.task, precision=self.precision)
        update = algorithm.train(model, request, work)
        if isinstance(study.aggregation, QFedAvg):
            rate = study.training.learning_rate_of(request.round)
            counted = trained_fairly(update, loss, sums, study.aggregation, rate=rate)
        else:
            counted = trained(update, self._count(study, records), sums, study.aggregation)
        if counted.clipped:
            _LOG.warning("round %d: the update was clipped to the study's norm", request.round)
        return replace(counted, left=lambda: algorithm.left(request, counted.update))

    def _evaluate(self, request: EvaluateRequest, loaded: Loaded) -> Summand:
        parts, algorithm = self._parts(request, loaded), self._algorithm(request, loaded)
        algorithm.receive(loaded.model, request)
        self._charge_judging(request, loaded)
        work = self._local_work(request, loaded, parts["train"], None)
        models = algorithm.judged(loaded.model, request, work)
        if loaded.study.personal:
            file = self._run_folder(request, loaded) / "personal-model.safetensors"
            keep_personal_model(models[-1], loaded.study, request, file)
        records = parts[request.part]
        sums = [self._sums(request, m, loaded, records) for m in models]
        form = loaded.resampled_for(request)
        if form is not None:
            draws = np.random.default_rng(self._generator(request, "bootstrap").initial_seed())
            private = isinstance(loaded.study.privacy, LocalPrivacy)
            sums.append(
                subgroup_sums(
                    models[0], records, form, draws, bounded=private, precision=self.precision
                )
            )
        return judged(np.concatenate(sums))

    def _algorithm(self, request: TrainRequest | EvaluateRequest, loaded: Loaded) -> Algorithm:
        return algorithm_of(
            loaded.study,
            hospital=self.hospital.name,
            folder=self._run_folder(request, loaded),
            durable=self.hospital.simulation is None,
            travelling=loaded.travelling,
            fresh=loaded.fresh,
        )

    def _run_folder(self, request: Request, loaded: Loaded) -> Path:
        return run_folder(self._folder / self.hospital.state, loaded.study, request.run)

    def _local_work(
        self,
        request: TrainRequest | EvaluateRequest,
        loaded: Loaded,
        records: Records,
        steps: LocalSteps | None,
    ) -> LocalWork:
        def seed_layers(purpose: str) -> None:
            self._seed_layers(self._generator(request, purpose).initial_seed())

        return LocalWork(
            study=loaded.study,
            task=loaded.task,
            records=records,
            server_round=request.round,
            steps=steps,
            order=lambda purpose: self._generator(request, purpose),
            seed_layers=seed_layers,
            precision=self.precision,
        )

    def _charge_judging(self, request: EvaluateRequest, loaded: Loaded) -> None:
        """Judging with noise is paid for before it is done; without noise it costs nothing."""
        study, patients, privacy = loaded.study, loaded.patients, loaded.study.privacy
        if not isinstance(privacy, LocalPrivacy) or patients is None:
            return
        if study.evaluation_noise is None:
            return
        charge_judging(
            request, study, privacy, patients, hospital=self.hospital, ledger=self.ledger
        )
        if self.hospital.simulation is None:
            self._note_spent(request, privacy)

    def _sums(
        self,
        request: TrainRequest | EvaluateRequest,
        model: nn.Module,
        loaded: Loaded,
        records: Records,
    ) -> Sums:
        """Metric sums; in a private study nothing that a record does makes them fail.

        With noise they must be charged before.
        """
        task, precision = loaded.task, self.precision
        if isinstance(task, NoisedClassification):
            sampling = self._stream(request, "judged sample")
            noise = self._stream(request, "judging noise")
            return noised_sums(model, records, task, sampling, noise, precision=precision)
        private = isinstance(loaded.study.privacy, LocalPrivacy)
        return metric_sums(model, records, task, bounded=private, precision=precision)

    def _count(self, study: Study, records: Records) -> float:
        """The records that it counts with; a public number if privacy is on, never the true one."""
        if study.aggregation.weighting == "uniform":
            return 1.0
        if isinstance(study.privacy, LocalPrivacy):
            return float(declared_patients(self.hospital))
        return float(len(records))

    def steps_for(self, request: TrainRequest, loaded: Loaded) -> LocalSteps:
        """The round's steps; private ones are charged here, before the first gradient.

        A subclass may wrap them, to watch.
        """
        study, patients = loaded.study, loaded.patients
        privacy = study.privacy
        if not isinstance(privacy, LocalPrivacy) or patients is None:
            order = self._generator(request, "order")
            return plain_steps(study.training, order, self.precision)
        streams = {purpose: self._stream(request, purpose) for purpose in ("sample", "noise")}
        steps = charged_steps(
            request,
            study,
            privacy,
            patients,
            hospital=self.hospital,
            ledger=self.ledger,
            sampling=streams["sample"],
            noise=streams["noise"],
            precision=self.precision,  # one that the device has not is refused before the charge
        )
        if self.hospital.simulation is None:
            self._note_spent(request, privacy)
        return steps

    def _note_spent(self, request: Request, privacy: LocalPrivacy) -> None:
        """Let the daemon know what the data set came to, for its audit log."""
        data, delta = self.hospital.data.name, self.hospital.limits.delta or privacy.delta
        epsilon = self.ledger.epsilon(data=data, delta=delta, accountant=privacy.accountant)
        counted = Counted(epsilon, request.study, request.run)
        note_spent(self._folder / self.hospital.state, data, counted)

    def _seed_layers(self, seed: int) -> None:
        """Layers with randomness of their own, as dropout, draw from the device's generator."""
        torch.default_generator.manual_seed(seed)  # manual_seed() visits every device: slower
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _stream(self, request: Request, purpose: str) -> SecretStream:
        """What protects patients is drawn from here, and never from a simulation's generator."""
        pretended = self.hospital.simulation
        if pretended is None:
            return SecretStream.fresh()
        return SecretStream.pretended(pretended.seed, *self._names(request, purpose))

    def _generator(self, request: Request, purpose: str, device: str = "cpu") -> torch.Generator:
        pretended = self.hospital.simulation
        seed = None if pretended is None else pretended.seed
        return generator(seed, *self._names(request, purpose), device=device)

    def _names(self, request: Request, purpose: str) -> tuple[object, ...]:
        study = self._loaded[request.study].study.study.name  # a digest changes with every default
        return (self.hospital.name, study, request.run, request.round, purpose)


def _same_version(request: Request | Query) -> None:
    """Two versions may mean different things by one message."""
    if request.version != VERSION:
        raise RefusedError(
            f"this hospital runs fedward {VERSION}, the server {request.version}",
            todo="install the same version on both sides",
        )
