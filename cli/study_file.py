"""Reading a study file, down to the settings of its model."""

from __future__ import annotations

from pathlib import Path

from fedward.study.errors import StudyError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study, read_study


def whole_study(path: Path) -> tuple[Study, int]:
    """A study with its model's settings filled in, and the number of the model's parameters.

    Raises:
        StudyError: Any key of the file, the model's settings included; names the file.
        PrivacyError: The study is private, and its model cannot be trained so.
        DataError: The file cannot be read.
    """
    read_study(path)  # a faulty file is told at once: the import takes seconds
    from fedward.models.registry import build, read_settled
    from fedward.privacy.private_model import refuse_unprotected

    study = read_settled(path)
    try:
        model = build(study, seed=0)
    except StudyError as error:
        raise error.in_file(path) from None
    if isinstance(study.privacy, LocalPrivacy):
        refuse_unprotected(model)
    return study, sum(parameter.numel() for parameter in model.parameters())
