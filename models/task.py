"""From a study's task to its loss and metrics."""

from __future__ import annotations

from fedward.models.tasks.any_task import Task
from fedward.models.tasks.classification import Classification
from fedward.models.tasks.generation import Generation
from fedward.models.tasks.multilabel import Multilabel
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.models.tasks.reconstruction import Reconstruction
from fedward.models.tasks.regression import Regression
from fedward.models.tasks.segmentation import Segmentation
from fedward.models.tasks.survival import Survival
from fedward.study.errors import StudyError
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study
from fedward.study.task import (
    ClassTask,
    GenerationTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
)


def task_of(study: Study) -> Task:
    """The loss and the metrics of a study, with noise in its evaluation where it asks for it.

    Raises:
        StudyError: The task cannot be learnt with privacy on.
    """
    match study.task:
        case ClassTask():
            privacy, noise = study.privacy, study.evaluation_noise
            if isinstance(privacy, LocalPrivacy) and noise is not None:
                return NoisedClassification(study.task, privacy, noise)
            return Classification(study.task)
        case MultilabelTask():
            return Multilabel(study.task)
        case RegressionTask():
            return Regression(study.task)
        case SurvivalTask():
            if study.task.loss == "cox" and isinstance(study.privacy, LocalPrivacy):
                raise StudyError(
                    "task.loss",
                    given='"cox" in a private study',
                    allowed='"hazards", for a risk set joins patients, and none of them has a '
                    "gradient of his own",
                )
            return Survival(study.task)
        case SegmentationTask():
            return Segmentation(study.task)
        case ReconstructionTask():
            return Reconstruction()
        case GenerationTask():
            return Generation(study.task, study.data.input_shape)
