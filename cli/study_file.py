"""Reading a study file, down to the settings of its model."""

from __future__ import annotations

from pathlib import Path

from fedward.study.errors import StudyError
from fedward.study.study import Study, read_study


def parameters_of(study: Study, path: Path) -> int:
    """Build the study's model once, and count its parameters.

    Raises:
        StudyError: The model's name, or one of its settings; names the file.
    """
    from fedward.models.registry import build

    try:
        model = build(study, seed=0)
    except StudyError as error:
        raise error.in_file(path) from None
    return sum(parameter.numel() for parameter in model.parameters())


def whole_study(path: Path) -> Study:
    """A study whose model was built once.

    Raises:
        StudyError: Any key of the file, the model's settings included.
        DataError: The file cannot be read.
    """
    study = read_study(path)
    parameters_of(study, path)
    return study
