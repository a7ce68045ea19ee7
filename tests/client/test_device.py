"""The device: what is asked for, or an error that says it is not there."""

from __future__ import annotations

import pytest
import torch

from fedward.client.device import choose_device
from fedward.study.errors import InputError


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_is_a_device_that_can_compute() -> None:
    device = choose_device("auto")

    assert torch.ones(2, device=device).sum().item() == 2
    if torch.cuda.is_available():
        assert device.type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a CUDA device")
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "cuda:3"])
def test_no_cuda_is_said(wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        choose_device(wanted)


def test_a_cuda_device_of_too_high_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="cuda:97"):
        choose_device("cuda:97")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="here is an MPS device")
def test_no_mps_is_said() -> None:
    with pytest.raises(InputError, match="mps"):
        choose_device("mps")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_taken_where_it_is() -> None:
    assert choose_device("cuda:0") == torch.device("cuda:0")
