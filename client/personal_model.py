"""A hospital's own model as a file at the hospital: nobody else has it, and it never leaves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from fedward.models import flat
from fedward.privacy.secret_file import write_secret
from fedward.study.errors import DataError
from fedward.study.messages import EvaluateRequest
from fedward.study.study import Study
from fedward.study.task import ClassTask, MultilabelTask

_LOG = logging.getLogger("fedward.client")
_WITH_THRESHOLD = (ClassTask, MultilabelTask)


def keep_personal_model(
    model: nn.Module, study: Study, request: EvaluateRequest, file: Path
) -> None:
    """Write the model that this hospital has in the end, for its own use.

    Args:
        model: As it is judged.
        study: Its digest, its classes and a threshold that it fixes are in the file's metadata.
        request: That judges it; its scaling constants are there too.
        file: Where; its folder is made.

    Raises:
        DataError: It cannot be written; what was there before is unchanged.
    """
    about: dict[str, Any] = {
        "study": study.study.name,
        "digest": request.study,
        "run": request.run,
        "model": study.model.model_dump(mode="json"),
        "classes": study.task.classes,
    }
    threshold = study.task.threshold if isinstance(study.task, _WITH_THRESHOLD) else None
    if isinstance(threshold, float):  # one chosen on validation is known at the aggregator alone
        about["threshold"] = threshold
    if request.scaling is not None:
        about["scaling"] = request.scaling.named(study.data)
    content = save(flat.named(model), metadata={"fedward": json.dumps(about)})
    try:
        for folder in (file.parent.parent, file.parent):  # parents' would get the usual mode
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_secret(file, content, over=True)
    except OSError as error:
        raise DataError(
            f"the personal model cannot be written ({error.strerror})",
            todo="make room on the disk, and see who owns the folder",
            where=str(file),
        ) from None
    _LOG.info("this hospital's personal model is in %s", file)
