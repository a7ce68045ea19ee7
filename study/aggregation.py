"""How the updates of a round become the next model: one frozen type a strategy.

The server's optimizer is Flower's strategy of the same name; it is given the mean of the round.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen


class _Sum(Frozen):
    """What becomes of a hospital's update before it leaves, and who can see it then.

    Attributes:
        weighting: `examples` (by the hospital's records) or `uniform`.
        max_records: A hospital with more records counts as if it had this many; it is public, and
            the nearer it is to the largest hospital's number the finer is the secure sum.
        clip: Largest L2 norm of an update (C); a longer one is shortened to it.
        secure: Whether only the sum can be read. Without it, whoever runs the aggregator reads each
            hospital's update and metrics.
        colluding: Hospitals that may side with the aggregator (c).
        min_honest: Fewest honest hospitals in any sum that can be read (k).
        two_hospitals: Allow a secure sum of two, from which each can subtract itself.
    """

    weighting: Literal["examples", "uniform"] = "examples"
    max_records: Annotated[int, Field(ge=1, lt=2**31)] = 10_000
    clip: Annotated[float, Field(gt=0, le=1e6)] = 100.0
    secure: bool = True
    colluding: Annotated[int, Field(ge=0)] = 0
    min_honest: Annotated[int, Field(ge=2)] = 2
    two_hospitals: bool = False

    @property
    def largest_weight(self) -> int:
        """What no hospital's weight is above; public."""
        return 1 if self.weighting == "uniform" else self.max_records

    @property
    def vectors(self) -> int:
        """How many vectors of the model's length travel in a round, each way."""
        return 1


class _Mean(_Sum):
    """A strategy that needs nothing but the mean."""


class FedAvg(_Mean):
    """The mean itself (McMahan et al. 2017, algorithm 1)."""

    strategy: Literal["fedavg"] = "fedavg"


class FedProx(_Mean):
    """The mean, with a pull towards the round's model in the hospitals (Li et al. 2020, eq. 2)."""

    strategy: Literal["fedprox"]
    proximal_mu: Annotated[float, Field(ge=0)]


class Scaffold(_Mean):
    """Control variates against client drift (Karimireddy et al. 2020, algorithm 1, option II).

    A hospital's weight is the same as any other's, as in the paper: c is then the mean of all c_i.

    Attributes:
        server_learning_rate: The paper's eta_g.
    """

    strategy: Literal["scaffold"]
    weighting: Literal["uniform"] = "uniform"
    server_learning_rate: Annotated[float, Field(gt=0)] = 1.0

    @property
    def vectors(self) -> int:
        """The model and the control variate."""
        return 2


class FedBN(_Mean):
    """The mean of all but the normalisation layers, which stay at home (Li et al. 2021, FedBN)."""

    strategy: Literal["fedbn"]


class FedPer(_Mean):
    """The mean of the body; the last layers are each hospital's own (Arivazhagan et al. 2019).

    Body and head are trained together, as in FedPer's algorithm 1, and not in turns (FedRep).

    Attributes:
        head_layers: How many of the last layers that have weights stay (the paper's K_P); with 0
            it is FedAvg.
    """

    strategy: Literal["fedper"]
    head_layers: Annotated[int, Field(ge=0, le=1000)] = 1


class Ditto(_Mean):
    """The mean, and beside it a model of each hospital's own (Li et al. 2021, Ditto, algorithm 1).

    Attributes:
        proximal_lambda: How strongly a personal model is pulled to the global one.
    """

    strategy: Literal["ditto"]
    proximal_lambda: Annotated[float, Field(ge=0)]


class FedAvgM(_Mean):
    """The mean's change with momentum (Hsu, Qi and Brown 2019)."""

    strategy: Literal["fedavgm"]
    server_learning_rate: Annotated[float, Field(gt=0)] = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class _Adaptive(_Mean):
    """Adaptive server optimizers after Reddi et al. 2021, as Flower 1.41 has them.

    They differ from the paper's algorithm 2 in two ways: the second moment starts at 0 and not at
    tau^2, and FedAdam corrects its step for bias as Kingma and Ba do, counting one round more.

    Attributes:
        server_learning_rate: The paper's eta.
        tau: The paper's degree of adaptivity.
    """

    server_learning_rate: Annotated[float, Field(gt=0)] = 0.1
    tau: Annotated[float, Field(gt=0)] = 1e-3


class FedAdagrad(_Adaptive):
    """Adagrad at the server."""

    strategy: Literal["fedadagrad"]


class FedAdam(_Adaptive):
    """Adam at the server."""

    strategy: Literal["fedadam"]
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99


class FedYogi(_Adaptive):
    """Yogi at the server."""

    strategy: Literal["fedyogi"]
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99


class QFedAvg(_Sum):
    """Fairness: a hospital with a higher loss counts more (Li et al. 2020, q-FFL, algorithm 2).

    The paper's step, sum of Delta_k over sum of h_k, is a weighted mean. With L = 1 / learning
    rate, F_k the hospital's loss before training and u_k its update, the weight is
    F_k^q + q L |u_k|^2 F_k^(q-1), and the mean is over F_k^q u_k / weight. A hospital finds both
    itself, so a secure sum is enough. `weighting` and `max_records` have no meaning here.

    Attributes:
        q: The paper's q; 0 is the plain mean of the hospitals.
        max_weight: Largest weight of a hospital; public, as max_records is for other strategies.
    """

    strategy: Literal["qfedavg"]
    q: Annotated[float, Field(ge=0, le=10)]
    max_weight: Annotated[int, Field(ge=1, le=1_000_000)] = 100

    @property
    def largest_weight(self) -> int:
        """What no hospital's weight is above; public."""
        return self.max_weight


class _Robust(_Sum):
    """A strategy that compares single updates, so that some of them may be false."""

    @model_validator(mode="after")
    def _sees_single_updates(self) -> _Robust:
        if self.secure:
            raise ValueError(
                "secure = false, because this strategy must look at each hospital's update, and "
                "then whoever runs the aggregator can too; or a strategy that needs only the sum"
            )
        return self

    @property
    def fewest(self) -> int:
        """Fewest updates that the strategy can compare."""
        return 1


class FedMedian(_Robust):
    """The median of each coordinate (Yin et al. 2018, algorithm 1, option I)."""

    strategy: Literal["fedmedian"]


class FedTrimmedAvg(_Robust):
    """The mean of each coordinate without its extremes (Yin et al. 2018, option II).

    Attributes:
        trimmed: Share of hospitals left out at each end.
    """

    strategy: Literal["fedtrimmedavg"]
    trimmed: Annotated[float, Field(ge=0, lt=0.5)] = 0.2


class Krum(_Robust):
    """The update nearest to its neighbours, or several of them (Blanchard et al. 2017).

    Attributes:
        malicious: Hospitals whose updates may be false (f); 2 f + 3 must answer.
        selected: How many are averaged; 1 is Krum, more is Multi-Krum.
    """

    strategy: Literal["krum"]
    malicious: Annotated[int, Field(ge=0)]
    selected: Annotated[int, Field(ge=1)] = 1

    @property
    def fewest(self) -> int:
        """Fewest updates that the strategy can compare."""
        return max(2 * self.malicious + 3, self.selected)


class Bulyan(_Robust):
    """Multi-Krum, then a trimmed mean around the median (El Mhamdi et al. 2018).

    Attributes:
        malicious: Hospitals whose updates may be false (f); 4 f + 3 must answer.
    """

    strategy: Literal["bulyan"]
    malicious: Annotated[int, Field(ge=0)]

    @property
    def fewest(self) -> int:
        """Fewest updates that the strategy can compare."""
        return 4 * self.malicious + 3


Robust = FedMedian | FedTrimmedAvg | Krum | Bulyan
Aggregation = (
    FedAvg
    | FedProx
    | Scaffold
    | FedBN
    | FedPer
    | Ditto
    | FedAvgM
    | FedAdagrad
    | FedAdam
    | FedYogi
    | QFedAvg
    | FedMedian
    | FedTrimmedAvg
    | Krum
    | Bulyan
)
