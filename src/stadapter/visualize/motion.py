"""How much of what a model looks at moves."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.visualize.maps import relative


def motion(frames: Tensor, grid: tuple[int, int]) -> Tensor:
    """Change of pixels per patch: uint8 (T, C, H, W) -> (T, *grid), in grey levels.

    The mean absolute difference to the frame before and to the one after (at the ends, to the one
    there is); zero for a single frame. A moving camera moves everything.
    """
    pixels = frames.float()
    steps = (pixels[1:] - pixels[:-1]).abs().mean(1)  # (T-1, H, W)
    if not len(steps):
        return torch.zeros(1, *grid)
    both = (torch.cat([steps[:1], steps]) + torch.cat([steps, steps[-1:]])) / 2
    return F.adaptive_avg_pool2d(both, grid)


def motion_seen(maps: Tensor, frames: Tensor) -> float | None:
    """Motion of the average patch, weighted by the maps (T, H, W), over that of any patch.

    1: looks at what moves no more than at anything else; 2: at what moves twice as much. The mean
    over the frames in which something moves; None if nothing does.
    """
    moved = motion(frames, (maps.shape[1], maps.shape[2]))
    some = moved.sum((1, 2)) > 0
    if not some.any():
        return None
    return (relative(moved[some]) * relative(maps[some])).mean().item()
