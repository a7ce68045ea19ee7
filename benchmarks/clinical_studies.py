"""The studies of `clinical.py`: files, data, what is to be reached, what others published.

A study is one entry of `STUDIES`; nothing else has to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["federated", "private"]


@dataclass(frozen=True)
class Target:
    """A figure to reach, as a mean over seeds.

    Attributes:
        side: Of the study without differential privacy, or of the one with it.
        figure: One of `Clinical.figures`.
        least: What is to be reached; None where `within` says it.
        within: How far the private side may be below the federated one.
        source: Whose figure that is.
    """

    side: Side
    figure: str
    least: float | None = None
    within: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Published:
    """A figure of somebody else, read and not run here."""

    model: str
    figure: str
    value: float


@dataclass(frozen=True)
class Clinical:
    """A study of the table.

    Attributes:
        name: What `--only` calls it.
        study: File in `examples/` without differential privacy; the private one's if it has none
            of its own, whose privacy is then off.
        private: File in `examples/` with it; None where no such study is run.
        data: Folder or file below the data's root; None where the study brings its own.
        figures: What is told, the foremost first. Beside what `result.json` has: `mean_of_centres`,
            the mean over hospitals of the accuracy on their own test parts, and
            `exact_concordance`, over all test records together.
        targets: To be reached.
        publisher: Whose figures `published` are.
        published: Of others.
        read_from: Where those stand: files of a repository with their commits, or a paper.
    """

    name: str
    study: str
    private: str | None
    data: str | None
    figures: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    publisher: str = ""
    published: tuple[Published, ...] = ()
    read_from: str = ""

    @property
    def files(self) -> dict[Side, str]:
        """The study file of each side."""
        both: dict[Side, str] = {"federated": self.study}
        return both if self.private is None else {**both, "private": self.private}


def _both(model: str, accuracy: float, mean_of_centres: float) -> tuple[Published, ...]:
    return (
        Published(model, "accuracy", accuracy),
        Published(model, "mean_of_centres", mean_of_centres),
    )


# FLamby's means over seeds 42 to 46, with 100 steps a round where a method is federated; of one
# hospital alone the best and the worst by the figure over all test patients.
_HEART_FROM = (
    "flamby/results/results_benchmark_fed_heart_disease/heart_seed42.csv to heart_seed46.csv "
    "(42, 45, 46 at a422b61; 43, 44 at f553c7a)"
)
_HEART = (
    *_both("pooled", 0.795, 0.735),
    *_both("Cyclic", 0.785, 0.718),
    *_both("FedAdagrad", 0.779, 0.731),
    *_both("FedYogi", 0.779, 0.731),
    *_both("FedAdam", 0.779, 0.726),
    *_both("FedAvg", 0.748, 0.685),
    *_both("FedProx", 0.748, 0.685),
    *_both("Scaffold", 0.748, 0.684),
    *_both("one hospital alone, the best", 0.784, 0.722),
    *_both("one hospital alone, the worst", 0.483, 0.567),
)
_BREAST_FROM = (
    "flamby/results/results_benchmark_fed_tcga_brca/tcga_seed42.csv and tcga_seed45.csv (at "
    "4f6e940), flamby/new_results/results_benchmark_fed_tcga_brca/tcga_seed43.csv (at 25fddba), "
    "tcga_seed44.csv and tcga_seed46.csv (at cf93c84)"
)
_BREAST = tuple(
    Published(model, "exact_concordance", value)
    for model, value in (
        ("pooled, trained for too short", 0.704),
        ("FedAdam", 0.842),
        ("FedYogi", 0.842),
        ("FedAdagrad", 0.834),
        ("FedAvg", 0.735),
        ("FedProx", 0.717),
        ("Scaffold", 0.699),
        ("Cyclic", 0.661),
        ("one region alone, the best", 0.728),
        ("one region alone, the worst", 0.565),
    )
)

STUDIES = (
    Clinical(
        name="chest-xray",
        study="chest-xray.toml",
        private="chest-xray-private.toml",
        data="pneumoniamnist/pneumoniamnist.npz",
        figures=("auc", "accuracy"),
        targets=(
            Target("federated", "auc", 0.95, source="ours"),
            Target("federated", "accuracy", 0.854, source="MedMNIST v2, ResNet-18"),
            Target("private", "auc", within=0.02, source="ours"),
        ),
        publisher="MedMNIST v2, ResNet-18, not federated",
        published=(
            Published("pooled", "auc", 0.944),
            Published("pooled", "accuracy", 0.854),
        ),
        read_from="Yang et al. 2023, Scientific Data 10:41",
    ),
    Clinical(
        name="heart-disease",
        study="heart-disease.toml",
        private="heart-disease-private.toml",
        data="uci_heart_disease",
        figures=("accuracy", "mean_of_centres", "auc"),
        targets=(
            Target("federated", "accuracy", 0.795, source="FLamby, pooled training"),
            Target("federated", "mean_of_centres", 0.80, source="ours"),
        ),
        publisher="FLamby",
        published=_HEART,
        read_from=_HEART_FROM,
    ),
    Clinical(
        name="breast-cancer-survival",
        study="breast-cancer-survival.toml",
        private="breast-cancer-survival-private.toml",
        data="fed_tcga_brca",
        figures=("concordance", "exact_concordance"),
        targets=(Target("federated", "exact_concordance", 0.842, source="FLamby, its best"),),
        publisher="FLamby",
        published=_BREAST,
        read_from=_BREAST_FROM,
    ),
    Clinical(
        name="arrhythmia",
        study="arrhythmia.toml",
        private="arrhythmia-private.toml",
        data="mitbih/mitbih_beats.npz",
        figures=("accuracy", "auc", "f1"),
        targets=(Target("federated", "accuracy", 0.86, source="gradient boosting, pooled: .851"),),
    ),
    Clinical(
        name="note-sections",
        study="note-sections.toml",
        private="note-sections-private.toml",
        data="mts_dialog",
        figures=("accuracy", "auc", "f1"),
        targets=(Target("federated", "accuracy", 0.665, source="TF-IDF, pooled"),),
    ),
    Clinical(
        name="note-sections-transformer",
        study="note-sections-transformer.toml",
        private=None,
        data="mts_dialog",
        figures=("accuracy", "auc", "f1"),
        targets=(Target("federated", "accuracy", 0.665, source="TF-IDF, pooled"),),
    ),
    Clinical(
        name="splice",
        study="splice.toml",
        private="splice-private.toml",
        data="uci_splice/splice.arff",
        figures=("accuracy", "auc", "f1"),
        targets=(Target("federated", "accuracy", 0.955, source="logistic regression, pooled"),),
    ),
    Clinical(
        name="splice-transformer",
        study="splice-transformer.toml",
        private=None,
        data="uci_splice/splice.arff",
        figures=("accuracy", "auc", "f1"),
        targets=(Target("federated", "accuracy", 0.955, source="logistic regression, pooled"),),
    ),
)

# For --quick: its records come with a library.
DEMO = Clinical(
    name="breast-cancer",
    study="breast-cancer.toml",
    private="breast-cancer.toml",
    data=None,
    figures=("auc", "accuracy", "mean_of_centres"),
    targets=(
        Target("federated", "auc", 0.95, source="ours"),
        Target("private", "auc", within=0.02, source="ours"),
    ),
)
