"""Mixup and CutMix: batches of clips blended with one another, and their targets with them.

Mixup (Zhang et al., arXiv 1710.09412) takes the weighted mean of two clips; CutMix (Yun et al.,
arXiv 1905.04899) puts a rectangle of one into the other, the same in all frames, so that time is
left as it is. One weight and one rectangle per batch, from the seed and the step alone.
"""

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How the clips of a batch are mixed."""

    partner: tuple[int, ...]
    """For each clip, the clip of the batch that it is mixed with."""
    weight: float
    """Share of the clip itself, 0 to 1."""
    box: tuple[float, float, float, float] | None
    """CutMix: top, left, bottom, right as fractions of the frame; None is mixup."""

    def apply(self, video: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix floats (B, T, C, H, W) and targets (B, K); new tensors.

        With CutMix, targets are weighted by the pixels that the rectangle really covers.
        """
        partner = torch.tensor(self.partner, device=video.device)
        others, weight = video[partner], self.weight
        if self.box is None:
            video = torch.lerp(others, video, weight)
        else:
            H, W = video.shape[-2:]
            top, left, bottom, right = (
                round(side * size) for side, size in zip(self.box, (H, W, H, W), strict=True)
            )
            video = video.clone()
            video[..., top:bottom, left:right] = others[..., top:bottom, left:right]
            weight = 1 - (bottom - top) * (right - left) / (H * W)
        return video, torch.lerp(targets[partner], targets, weight)


def draw_mixing(
    batch_size: int, *, mixup: float, cutmix: float, seed: int, step: int
) -> Mixing | None:
    """The mixing of one step.

    Args:
        batch_size: B.
        mixup: alpha of the Beta(alpha, alpha) from which mixup's weight comes; 0 for no mixup.
        cutmix: the same of CutMix. With both, each step takes one of them, at even odds.
        seed: of the run.
        step: number of the step.

    Returns:
        None if both are 0.
    """
    if not mixup and not cutmix:
        return None
    random = Random(f"mix {seed}/{step}")
    cuts = random.random() < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = cutmix if cuts else mixup
    weight = random.betavariate(alpha, alpha)
    partner = list(range(batch_size))
    random.shuffle(partner)
    box = None
    if cuts:
        side = math.sqrt(1 - weight) / 2
        y, x = random.random(), random.random()
        box = (max(0.0, y - side), max(0.0, x - side), min(1.0, y + side), min(1.0, x + side))
    return Mixing(tuple(partner), weight, box)
