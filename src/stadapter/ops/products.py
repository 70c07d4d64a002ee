"""Products with frozen weights, and which type products are computed in.

A CPU without bfloat16 instructions multiplies such matrices by plain loops, tens of times slower
than float32. There tensors are kept in half precision and multiplied in float32, which is also more
exact.
"""

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
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


def frozen_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None
) -> Tensor:
    """`F.linear(x, weight * scale, bias)` with weights stored in another type than x has.

    Args:
        x: (..., I)
        weight: (O, I), of any floating type, or int8 with a `scale`.
        bias: (O,)
        scale: (O, 1)

    Returns:
        (..., O), of the type to which autocast would cast x; of x's type outside of it. Backward
        keeps the weight as it is stored, and nothing of x.
    """
    kept = cast_dtype(x)
    same = scale is None and weight.dtype == kept
    if torch.compiler.is_compiling() or weight.requires_grad or x.device.type == "meta":
        return F.linear(x.to(kept), _unpack(weight, scale, kept), _to(bias, kept))
    if same and product_dtype(x.device, kept) == kept:
        return F.linear(x, weight, _to(bias, kept))
    with torch.autocast(x.device.type, enabled=False):
        y = _FrozenLinear.apply(x, weight, bias, scale, kept)  # type: ignore[no-untyped-call]
    return cast(Tensor, y)


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, kept: torch.dtype
    ) -> Tensor:
        computed = product_dtype(x.device, kept)
        unpacked = _unpack(weight, scale, computed)
        return F.linear(x.to(computed), unpacked, _to(bias, computed)).to(kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, scale, ctx.kept = inputs
        ctx.dtype = x.dtype
        ctx.save_for_backward(weight, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        computed = product_dtype(grad.device, ctx.kept)
        with torch.autocast(grad.device.type, enabled=False):
            d_x = grad.to(computed) @ _unpack(weight, scale, computed)
        return d_x.to(ctx.dtype), None, None, None, None


def _unpack(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype) if scale is None else weight.to(dtype) * scale.to(dtype)


def _to(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)
