"""Which device and precision a command computes with."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def pick_device(name: str) -> torch.device:
    """ "auto" takes CUDA, then Apple's MPS, then the CPU; otherwise the device of that name.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not usable on this machine; try cpu or auto"
        ) from error
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Where matrix products run in `precision`; weights and the residual of losses stay float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def default_num_workers() -> int:
    """As many decoding processes as there are cores for this process, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
