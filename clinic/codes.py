"""Codes of records: the few numbers that an autoencoder makes of each, for whatever comes after."""

from __future__ import annotations

import csv
import io
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedward.clinic.asked_model import AskedModel
from fedward.clinic.unlabelled import Unlabelled
from fedward.study.errors import OptionError


@runtime_checkable
class _Encoder(Protocol):
    def code(self, inputs: Tensor) -> Tensor: ...


@torch.inference_mode()
def codes_of(asked: AskedModel, inputs: Tensor) -> Tensor:
    """The codes of records.

    Args:
        asked: A finished run's model.
        inputs: As the model sees them, shape (n, *input_shape).

    Returns:
        Shape (n, code), float32; of a variational autoencoder the means.

    Raises:
        OptionError: The model makes no codes.
    """
    if not isinstance(asked.network, _Encoder):
        raise OptionError(
            f"its model, {asked.study.model.name}, makes no codes",
            todo="give the folder of a run with an autoencoder or vae",
        )
    return asked.network.code(inputs)


def codes_table(found: Unlabelled, codes: Tensor) -> bytes:
    """A table, CSV: a row for each record with its name and its code."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record", *(f"code_{place + 1}" for place in range(codes.shape[1]))])
    for name, code in zip(found.names, codes.tolist(), strict=True):
        table.writerow([name, *(f"{value:.9g}" for value in code)])
    return text.getvalue().encode()
