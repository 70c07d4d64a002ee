"""Which type matrix products are computed in: the tensors' own, unless the CPU has none for it.

A CPU without bfloat16 instructions multiplies such matrices by plain loops, tens of times slower
than float32. There tensors are kept in half precision and multiplied in float32, which is also more
exact.
"""

from functools import cache

import torch
from torch import Tensor


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type in which products of tensors of `dtype` on `device` are computed."""
    halves = (torch.bfloat16, torch.float16)
    if device.type == "cpu" and dtype in halves and not _cpu_multiplies(dtype):
        return torch.float32
    return dtype


def cast_dtype(x: Tensor) -> torch.dtype:
    """The type to which autocast would cast `x` for a matrix product; x's own outside of it."""
    device = x.device.type
    # The meta device, on which costs are counted, has no autocast.
    available = torch.amp.is_autocast_available(device)
    if available and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


@cache
def _cpu_multiplies(dtype: torch.dtype) -> bool:
    has = torch.cpu.get_capabilities()
    if has.get("architecture") != "x86_64":
        return True  # ARM's half-precision units are not listed; torch decides
    names = ("avx512_bf16", "amx_bf16") if dtype == torch.bfloat16 else ("avx512_fp16", "amx_fp16")
    return any(has.get(name, False) for name in names)
