"""Reading a study file, down to the settings of its model."""

from __future__ import annotations

from pathlib import Path

from fedward.study.errors import StudyError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study, read_study


def whole_study(path: Path, models: Path | None = None) -> tuple[Study, int | None]:
    """A study with its model's settings filled in, and the number of weights that are trained.

    Args:
        path: The study's file.
        models: Folder of pretrained models; without it the size of one is not known, and None.

    Raises:
        StudyError: Any key of the file, the model's settings included; names the file.
        PrivacyError: The study is private, and its model cannot be trained so.
        DataError: The file cannot be read.
        OptionError: A package that the model needs is not installed, or the one that brings it is
            broken.
    """
    read_study(path)  # a faulty file is told at once: the import takes seconds
    from fedward.models.registry import build, family_of, read_settled
    from fedward.models.resampled import resampled_of
    from fedward.models.task import task_of
    from fedward.privacy.private_model import refuse_unprotected

    study = read_settled(path)
    try:
        resampled_of(study, task_of(study))
    except StudyError as error:
        raise error.in_file(path) from None
    if models is None and family_of(study).pretrained:
        return study, None
    try:
        model = build(study, seed=0, models=models)
    except StudyError as error:
        raise error.in_file(path) from None
    if isinstance(study.privacy, LocalPrivacy):
        refuse_unprotected(model)
    return study, sum(p.numel() for p in model.parameters() if p.requires_grad)
