"""Networks to train privately, patients with records, and DP-SGD by its definition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from opacus.layers import DPLSTM, DPMultiheadAttention
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from fedward.models import mlp, small_cnn
from fedward.models.inputs import Inputs
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import LocalSteps, Loss

ALL = 10_000
"""More records than any patient here has."""


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def private(seed: int = 0, /, **changes: Any) -> PatientSteps:  # noqa: ANN401
    """Private steps that neither clip nor add noise nor leave anybody out, but for the changes."""
    values: dict[str, Any] = {
        "noise_multiplier": 0.0,
        "clipping_norm": 1e6,
        "sampling_rate": 1.0,
        "records_per_patient": ALL,
        "divisor": 1.0,
        "steps": 1,
        "sampling": SecretStream.pretended(seed, "sample"),
        "noise": SecretStream.pretended(seed, "noise"),
    }
    return PatientSteps(**{**values, **changes})


# --- Networks -------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One layer that is used two times on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.outer(torch.relu(self.inner(torch.relu(self.inner(inputs)))))
        return found


class Own(nn.Module):
    """A parameter of the network itself, beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.5, -0.5]))
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs) * self.scale
        return found


class Recurrent(nn.Module):
    """Opacus' LSTM over a sequence of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = DPLSTM(2, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.lstm(inputs)
        found: Tensor = self.head(states[:, -1])
        return found


class Attentive(nn.Module):
    """Opacus' attention over a sequence of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(2, 4)
        self.attention = DPMultiheadAttention(4, 2, batch_first=True)  # type: ignore[no-untyped-call]
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.inward(inputs)
        seen, _ = self.attention(x, x, x, need_weights=False)
        found: Tensor = self.head(self.norm(x + seen).mean(dim=1))
        return found


class Transformer(nn.Module):
    """A block of linear layers and layer norms, with attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(2, 4)
        self.before, self.between = nn.LayerNorm(4), nn.LayerNorm(4)
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.wide, self.narrow = nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.inward(inputs)
        y = self.before(x)
        x = x + functional.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        x = x + self.narrow(functional.gelu(self.wide(self.between(x))))
        found: Tensor = self.head(x.mean(dim=1))
        return found


Build = Callable[[], nn.Module]
THREE, SMALL = Inputs("features", (3,)), Inputs("image", (1, 6, 6))


class Gated(nn.Module):
    """PyTorch's own LSTM and, on its states, GRU in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.gru = nn.GRU(3, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.gru(self.lstm(inputs)[0])
        found: Tensor = self.head(states.mean(dim=1))
        return found


NETWORKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "mlp": (lambda: mlp.build(mlp.Settings(hidden=(5,)), THREE, 2), (3,)),
    "small_cnn": (
        lambda: small_cnn.build(small_cnn.Settings(channels=(4, 6), groups=2), SMALL, 2),
        (1, 6, 6),
    ),
    "a layer used twice": (Twice, (3,)),
    "a parameter of its own": (Own, (3,)),
    "lstm": (Recurrent, (4, 2)),
    "vendor's kernels": (Gated, (4, 2)),
    "attention": (Attentive, (4, 2)),
    "transformer": (Transformer, (4, 2)),
}


def network(name: str = "mlp", seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One of the networks; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name][0]().to(dtype)


# --- Patients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ward:
    """Records of some patients, each patient's beside each other.

    Attributes:
        inputs: Of all records.
        labels: Of the same records, 0 or 1.
        patients: Numbers of their patients, ascending, with gaps.
    """

    inputs: Tensor
    labels: Tensor
    patients: Tensor

    def only(self, kept: Tensor) -> Ward:
        """Some of the records, by number or by a mask."""
        return Ward(self.inputs[kept], self.labels[kept], self.patients[kept])

    def without(self, patient: int) -> Ward:
        """Everybody else."""
        return self.only(self.patients != patient)

    def one_by_one(self) -> Ward:
        """The same records, each as if it were a patient of its own."""
        return replace(self, patients=torch.arange(len(self.patients)))

    def everybody(self) -> list[int]:
        """The patients' numbers, each once."""
        numbers: list[int] = self.patients.unique().tolist()
        return numbers


def ward_of(
    sizes: Sequence[int],
    name: str = "mlp",
    seed: int = 0,
    *,
    size: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Ward:
    """Random records for one of the networks.

    Args:
        sizes: Records of each patient.
        name: Of the network.
        seed: Of what is random.
        size: Standard deviation of the inputs.
        dtype: Of the inputs.
    """
    source = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    inputs = torch.randn(count, *NETWORKS[name][1], generator=source, dtype=torch.float64) * size
    labels = torch.randint(0, 2, (count,), generator=source)
    numbers = 7 * torch.arange(len(sizes)) + 2
    return Ward(inputs.to(dtype), labels, numbers.repeat_interleave(torch.tensor(sizes)))


# --- What is found, and what is wanted ------------------------------------------------------------


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def parameters(model: nn.Module) -> Tensor:
    return flat(list(model.parameters()))


def gradient(model: nn.Module) -> Tensor:
    return flat([p.grad for p in model.parameters() if p.grad is not None])


def take(steps: LocalSteps, ward: Ward, loss: Loss = loss) -> None:
    """One step over the whole ward, as it is drawn where nobody is left out."""
    batch = next(b for b in steps.batches(ward.patients) if len(b.records) == len(ward.patients))
    steps.gradient(loss, ward.inputs[batch.records], ward.labels[batch.records], batch.patients)


def gradient_of(steps: LocalSteps, model: nn.Module, ward: Ward) -> Tensor:
    """What one step over the whole ward leaves in the parameters of a copy of the model."""
    model = copy.deepcopy(model)
    steps.prepare(model, SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    take(steps, ward)
    return gradient(model)


def clipped_means(model: nn.Module, ward: Ward, bound: float) -> Tensor:
    """Each patient's gradient by plain autograd, shape (patients, parameters)."""
    model = copy.deepcopy(model)
    found = [parameters(model).new_zeros((0, parameters(model).numel()))]
    for patient in ward.everybody():
        own = ward.only(ward.patients == patient)
        mean = functional.cross_entropy(model(own.inputs), own.labels)
        whole = flat(torch.autograd.grad(mean, list(model.parameters())))
        found.append(whole[None] * min(1.0, bound / float(whole.norm())))
    return torch.cat(found)
