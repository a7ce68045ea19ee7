"""How the updates of a round become the next model: one frozen type a strategy.

The server's optimizer is Flower's strategy of the same name; it is given the mean of the round.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedward.study.frozen import Frozen


class _Mean(Frozen):
    """Attributes: weighting: `examples` (by the hospital's records) or `uniform`."""

    weighting: Literal["examples", "uniform"] = "examples"


class FedAvg(_Mean):
    """The mean itself (McMahan et al. 2017, algorithm 1)."""

    strategy: Literal["fedavg"] = "fedavg"


class FedProx(_Mean):
    """The mean, with a pull towards the round's model in the hospitals (Li et al. 2020, eq. 2)."""

    strategy: Literal["fedprox"]
    proximal_mu: Annotated[float, Field(ge=0)]


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


Aggregation = FedAvg | FedProx | FedAvgM | FedAdagrad | FedAdam | FedYogi
