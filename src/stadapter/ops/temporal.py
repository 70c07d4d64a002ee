"""A depthwise filter along time on tokens in their own layout, as torch custom operators.

    y[b, t, n, a] = bias[a] + sum over k of weight[a, k] * x[b, t + k * dilation - before, n, a]

with zeros, or the nearest frame, outside the clip. On the CPU one frame after another is added up
while it is in the cache, in float32 whatever the tensors' type; on a GPU one Triton kernel makes a
single pass, and another one all gradients. Both are registered with shapes and derivative, so that
`torch.compile` and `torch.export` can carry them.

Letters: B clips, T frames, N tokens per frame, A adapter width, K taps.
"""

import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

TimePadding = Literal["zero", "replicate"]


def temporal_filter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    before: int,
    dilation: int,
    padding: TimePadding,
    triton: bool,
) -> Tensor:
    """The filter above.

    Args:
        x: (B, T, N, A)
        weight: (A, K)
        bias: (A,)
        before: frames between the first tap and the current frame.
        dilation: frames from one tap to the next.
        padding: what stands outside the clip.
        triton: by Triton's kernel, which must not refuse (`triton_refuses`); else on the CPU.

    Returns:
        (B, T, N, A), contiguous, of x's type.
    """
    y: Tensor = _filter(x, weight, bias, before, dilation, padding == "replicate", triton)
    return y


def temporal_filter_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    before: int,
    dilation: int,
    padding: TimePadding,
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (B, T, N, A), weight (A, K) and bias (A,) in one pass over `grad` and `x`."""
    gradients: tuple[Tensor, Tensor, Tensor] = _filter_backward(
        grad, x, weight, before, dilation, padding == "replicate", triton
    )
    return gradients


def triton_refuses(x: Tensor, padding: TimePadding) -> str | None:
    """Why the Triton kernels cannot filter `x`; None if they can."""
    if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreting()):
        return f"needs a CUDA device, not {x.device}"
    if padding != "zero":
        return f"pads with zeros only, not {padding!r}"
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, not {x.dtype}"
    return None if _has_triton() else "needs the package triton, which is not installed"


def interpreting() -> bool:
    """Whether Triton's interpreter is asked for (TRITON_INTERPRET=1): kernels run on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@torch.library.custom_op("stadapter::temporal_filter", mutates_args=())
def _filter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    before: int,
    dilation: int,
    replicate: bool,
    triton: bool,
) -> Tensor:
    if triton:
        from stadapter.ops import triton_kernels

        return triton_kernels.temporal_filter(
            x.contiguous(), weight, bias, before=before, dilation=dilation
        )
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    exact = _exact(x.dtype)
    taps, bias = weight.T.to(exact).contiguous(), bias.to(exact)
    for clip, out in zip(x, y, strict=True):
        frames = clip.to(exact)
        sums = out if out.dtype == exact else torch.empty_like(frames)
        sums.copy_(bias.expand_as(frames))
        for t, k, source in _reads(frames.shape[0], taps.shape[0], before, dilation, replicate):
            sums[t].addcmul_(frames[source], taps[k])
        if sums is not out:
            out.copy_(sums)
    return y


@torch.library.custom_op("stadapter::temporal_filter_backward", mutates_args=())
def _filter_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    before: int,
    dilation: int,
    replicate: bool,
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if triton:
        from stadapter.ops import triton_kernels

        return triton_kernels.temporal_filter_backward(
            grad.contiguous(), x.contiguous(), weight, before=before, dilation=dilation
        )
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    exact = _exact(x.dtype)
    taps = weight.T.to(exact).contiguous()
    # Products of one tap are added up over frames and clips first, over positions once at the end.
    products = taps.new_zeros((taps.shape[0], *x.shape[2:]))
    total = taps.new_zeros(x.shape[2:])
    for clip, grad_clip, out in zip(x, grad, dx, strict=True):
        frames, grads = clip.to(exact), grad_clip.to(exact)
        sums = out.zero_() if out.dtype == exact else torch.zeros_like(frames)
        for t, k, source in _reads(frames.shape[0], taps.shape[0], before, dilation, replicate):
            sums[source].addcmul_(grads[t], taps[k])
            products[k].addcmul_(grads[t], frames[source])
        if sums is not out:
            out.copy_(sums)
        total += grads.sum(0)
    return dx, products.sum(1).T.to(weight.dtype).contiguous(), total.sum(0).to(weight.dtype)


def _reads(
    num_frames: int, num_taps: int, before: int, dilation: int, replicate: bool
) -> Iterator[tuple[int, int, int]]:
    """(frame, tap, frame it reads) of every product; frame by frame, so that sums stay in cache."""
    for t in range(num_frames):
        for k in range(num_taps):
            source = t + k * dilation - before
            if replicate:
                source = min(max(source, 0), num_frames - 1)
            if 0 <= source < num_frames:
                yield t, k, source


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@_filter.register_fake
def _(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@_filter_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[:1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    return (*_filter_backward(grad, x, weight, *ctx.settings), None, None, None, None)


_filter.register_autograd(_backward, setup_context=_save)
