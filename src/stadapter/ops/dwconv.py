"""The adapter's depthwise 3D convolution, on tokens in channels-last layout.

Tokens come out of a linear layer as (..., A), while Conv3d wants (B, A, T, H, W): two full copies
around three multiply-adds per value. `dwconv3d_ref` makes those copies and is the definition; the
shift path adds shifted copies of the tokens instead, in their own layout, for filters which look
along time only: the published default, kernel (3, 1, 1).

Letters: B clips, T frames, H W patch grid, A adapter width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["auto", "ref", "shift"]
TimePadding = Literal["zero", "replicate"]


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
        backend: "ref" permutes to Conv3d; "shift" needs kH = kW = 1; "auto" takes the faster one.

    Returns:
        (B, T, H, W, A)

    Raises:
        ValueError: "shift" was asked for a kernel that also looks along space.
    """
    temporal_only = weight.shape[3:] == (1, 1)
    if backend == "shift" and not temporal_only:
        raise ValueError(
            f"backend 'shift' filters along time only, but the kernel is "
            f"{tuple(weight.shape[2:])}; use backend 'ref' or 'auto'"
        )
    # Cost counters know convolutions, not shifted additions: on the meta device nothing is computed
    # and the definition is the one to count.
    if backend == "ref" or not temporal_only or (backend == "auto" and x.device.type == "meta"):
        return dwconv3d_ref(x, weight, bias, causal=causal, padding=padding, dilation=dilation)
    return _shift(x, weight, bias, causal=causal, padding=padding, dilation=dilation)


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
