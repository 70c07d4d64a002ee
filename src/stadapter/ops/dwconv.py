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


def temporal_padding(kernel_frames: int, causal: bool) -> tuple[int, int]:
    """Number of zero frames before and after the clip which keep its length.

    >>> temporal_padding(3, causal=False), temporal_padding(3, causal=True)
    ((1, 1), (2, 0))
    """
    before = kernel_frames - 1 if causal else kernel_frames // 2
    return before, kernel_frames - 1 - before


def dwconv3d(
    x: Tensor, weight: Tensor, bias: Tensor, *, causal: bool = False, backend: Backend = "auto"
) -> Tensor:
    """Filter every channel over time and space by its own kernel, zero-padded, stride 1.

    Args:
        x: (B, T, H, W, A)
        weight: (A, 1, kT, kH, kW), odd sizes; the layout of `nn.Conv3d(groups=A)`
        bias: (A,)
        causal: look only at the current and earlier frames instead of both sides.
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
        return dwconv3d_ref(x, weight, bias, causal=causal)
    return _shift(x, weight, bias, causal=causal)


def dwconv3d_ref(x: Tensor, weight: Tensor, bias: Tensor, *, causal: bool = False) -> Tensor:
    """The definition of `dwconv3d`, by Conv3d; same arguments and result."""
    kT, kH, kW = weight.shape[2:]
    before, after = temporal_padding(kT, causal)
    x = x.permute(0, 4, 1, 2, 3)  # (B, A, T, H, W)
    x = F.pad(x, (kW // 2, kW // 2, kH // 2, kH // 2, before, after))
    y = F.conv3d(x, weight, bias, groups=weight.shape[0])
    return y.permute(0, 2, 3, 4, 1)


def _shift(x: Tensor, weight: Tensor, bias: Tensor, *, causal: bool) -> Tensor:
    T = x.shape[1]
    kT = weight.shape[2]
    taps = weight.reshape(-1, kT).unbind(1)
    before, after = temporal_padding(kT, causal)
    x = F.pad(x, (0, 0, 0, 0, 0, 0, before, after))
    y = torch.addcmul(bias, x.narrow(1, 0, T), taps[0])
    for i in range(1, kT):
        y = torch.addcmul(y, x.narrow(1, i, T), taps[i])
    return y
