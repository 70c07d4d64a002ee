"""The adapter's depthwise 3D convolution, on tokens in channels-last layout.

Tokens come out of a linear layer as (..., A), while Conv3d wants (B, A, T, H, W): two full copies
around three multiply-adds per value. `dwconv3d_ref` makes those copies and is the definition. A
filter which looks along time only (the published default, kernel (3, 1, 1)) adds shifted frames
instead, in the layout of the tokens: `temporal` has the kernels.

Letters: B clips, T frames, H W patch grid, A adapter width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.ops.temporal import TimePadding, temporal_filter, triton_refuses

Backend = Literal["auto", "ref", "shift", "fused", "triton"]


def temporal_padding(kernel_frames: int, causal: bool, dilation: int = 1) -> tuple[int, int]:
    """Number of frames to put before and after the clip which keep its length.

    >>> temporal_padding(3, causal=False), temporal_padding(3, causal=True)
    ((1, 1), (2, 0))
    >>> temporal_padding(3, causal=False, dilation=4)
    (4, 4)
    """
    span = (kernel_frames - 1) * dilation
    before = span if causal else span // 2
    return before, span - before


def pick_backend(x: Tensor, weight: Tensor, padding: TimePadding, backend: Backend) -> Backend:
    """The one place where a path is chosen; what was asked for, or the fastest for "auto".

    Args:
        x: what is filtered; its device and layout count.
        weight: (A, 1, kT, kH, kW)
        padding: as for `dwconv3d`.
        backend: as for `dwconv3d`.

    Raises:
        ValueError: a path was asked for that cannot do this.
    """
    temporal_only = weight.shape[3:] == (1, 1)
    if backend in ("shift", "fused", "triton") and not temporal_only:
        raise ValueError(
            f"backend {backend!r} filters along time only, but the kernel is "
            f"{tuple(weight.shape[2:])}; use backend 'ref' or 'auto'"
        )
    if backend == "triton":
        reason = triton_refuses(x, padding)
        if reason is not None:
            raise ValueError(f"backend 'triton' {reason}; use backend 'auto'")
    if backend == "fused" and x.device.type != "cpu":
        raise ValueError(f"backend 'fused' is for the CPU, not for {x.device}; use backend 'auto'")
    if backend != "auto":
        return backend
    # Cost counters know convolutions, not shifted additions: on the meta device nothing is computed
    # and the definition is the one to count.
    if not temporal_only or x.device.type == "meta":
        return "ref"
    # A compiler fuses the shifted additions with what stands around them; an opaque operator it
    # could not, and an exported program should not need this package.
    if torch.compiler.is_compiling():
        return "shift"
    if x.device.type == "cpu":
        return "fused"
    return "triton" if triton_refuses(x, padding) is None else "shift"


def dwconv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    causal: bool = False,
    padding: TimePadding = "zero",
    dilation: int = 1,
    backend: Backend = "auto",
) -> Tensor:
    """Filter every channel over time and space by its own kernel, stride 1.

    Args:
        x: (B, T, H, W, A)
        weight: (A, 1, kT, kH, kW), odd sizes; the layout of `nn.Conv3d(groups=A)`
        bias: (A,)
        causal: look only at the current and earlier frames instead of both sides.
        padding: what stands before the first and after the last frame: zeros, or that frame again.
            Around the grid there are always zeros.
        dilation: frames from one tap of the filter to the next.
        backend: "ref" permutes to Conv3d. For kH = kW = 1 only: "shift" adds shifted frames by
            plain tensor operations, "fused" frame by frame in the CPU's cache, "triton" in one
            kernel on a GPU. "auto" takes the fastest.

    Returns:
        (B, T, H, W, A)

    Raises:
        ValueError: a backend was asked for that cannot do this kernel, padding or device.
    """
    backend = pick_backend(x, weight, padding, backend)
    if backend == "ref":
        return dwconv3d_ref(x, weight, bias, causal=causal, padding=padding, dilation=dilation)
    if backend == "shift":
        return _shift(x, weight, bias, causal=causal, padding=padding, dilation=dilation)
    before, _ = temporal_padding(weight.shape[2], causal, dilation)
    y = temporal_filter(
        x.flatten(2, 3),
        weight.flatten(1),
        bias,
        before=before,
        dilation=dilation,
        padding=padding,
        triton=backend == "triton",
    )
    return y.reshape(x.shape)


def dwconv3d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    causal: bool = False,
    padding: TimePadding = "zero",
    dilation: int = 1,
) -> Tensor:
    """The definition of `dwconv3d`, by Conv3d; same arguments and result."""
    kT, kH, kW = weight.shape[2:]
    x = _pad_time(x, temporal_padding(kT, causal, dilation), padding)
    x = x.permute(0, 4, 1, 2, 3)  # (B, A, T, H, W)
    y = F.conv3d(
        x,
        weight,
        bias,
        padding=(0, kH // 2, kW // 2),
        dilation=(dilation, 1, 1),
        groups=weight.shape[0],
    )
    return y.permute(0, 2, 3, 4, 1)


def _shift(
    x: Tensor, weight: Tensor, bias: Tensor, *, causal: bool, padding: TimePadding, dilation: int
) -> Tensor:
    T = x.shape[1]
    kT = weight.shape[2]
    taps = weight.reshape(-1, kT).unbind(1)
    x = _pad_time(x, temporal_padding(kT, causal, dilation), padding)
    y = torch.addcmul(bias, x.narrow(1, 0, T), taps[0])
    for i in range(1, kT):
        y = torch.addcmul(y, x.narrow(1, i * dilation, T), taps[i])
    return y


def _pad_time(x: Tensor, frames: tuple[int, int], padding: TimePadding) -> Tensor:
    """(B, T, H, W, A) -> (B, before + T + after, H, W, A)."""
    before, after = frames
    if padding == "zero":
        return F.pad(x, (0, 0, 0, 0, 0, 0, before, after))
    first, last = x[:, :1], x[:, -1:]
    return torch.cat(
        [first.expand(-1, before, -1, -1, -1), x, last.expand(-1, after, -1, -1, -1)], 1
    )
