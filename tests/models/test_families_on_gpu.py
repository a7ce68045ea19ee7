"""Every family on a GPU: it answers what the processor answers, and takes a step."""

from __future__ import annotations

import pytest
import torch

from fedward.client.training import train
from fedward.models.task import task_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.precision import Kind, Precision
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import LocalSteps, PlainSteps
from tests.models.small_families import (
    PRIVATE,
    Case,
    StudyWith,
    _monai_s_own_warnings,  # noqa: F401 - a fixture of the whole file
    built,
    each_case,
    toy,
    trained_of,
)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", each_case())
def test_a_gpu_answers_what_the_processor_answers(
    case: Case, study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    study, model = built(case, study_with)
    inputs = toy(study, 5).whole
    answers = slice(0, 1) if study.task.kind == "generation" else slice(None)  # not of pictures

    expected = model.eval()(inputs)[:, answers]
    found = model.cuda()(inputs.cuda())[:, answers]

    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("case", each_case())
def test_a_gpu_takes_a_step(case: Case, kind: Kind, private: bool, study_with: StudyWith) -> None:
    study, model = built(case, study_with, **({"privacy": PRIVATE} if private else {}))
    model = model.cuda()
    before = trained_of(model)
    steps: LocalSteps = (
        PatientSteps(
            noise_multiplier=1e-3,
            clipping_norm=1.0,
            sampling_rate=0.5,
            records_per_patient=1,
            divisor=4.0,
            steps=1,
            sampling=SecretStream.pretended(0, "sample"),
            noise=SecretStream.pretended(0, "noise"),
            precision=Precision(kind),
        )
        if private
        else PlainSteps(
            batch_size=8,
            epochs=None,
            steps=1,
            generator=torch.Generator().manual_seed(0),
            precision=Precision(kind),
        )
    )

    train(model, toy(study, 8).to(torch.device("cuda")), study, task_of(study), steps)

    after = trained_of(model)
    assert after.is_cuda
    assert after.isfinite().all()
    assert (after != before).any()
