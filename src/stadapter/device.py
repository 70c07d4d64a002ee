"""Which device and precision a command computes with."""

import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Precision -> the type that matrix products are computed in."""


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
    return torch.autocast(device.type, dtype=DTYPES[precision])


def default_num_workers() -> int:
    """As many decoding processes as there are cores for this process, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def device_name(device: torch.device) -> str:
    """What people call it: the GPU's name, or the processor and how many threads compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    return f"{device.type} ({processor}, {torch.get_num_threads()} threads)"


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use so far: of the GPU's memory, or of this process (0 where the
    system does not say)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
