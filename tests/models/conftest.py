"""A task of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedward.models.task import task_of
from fedward.models.tasks.any_task import Task
from fedward.study.study import Study
from tests.models.task_kinds import KINDS

StudyWith = Callable[[Mapping[str, object]], Study]


@pytest.fixture(scope="session")
def task(study_with: StudyWith) -> Callable[..., Task]:
    """The task of a kind, with settings of its own."""

    def made(kind: str, **settings: object) -> Task:
        changes = KINDS[kind]
        table: Any = changes["task"]
        return task_of(study_with({**changes, "task": table | settings}))

    return made
