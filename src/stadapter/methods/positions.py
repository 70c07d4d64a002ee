"""Learned positions of frames in time, for methods whose attention over time needs them.

Attention treats its tokens as a set, and the mean over frames does too: without positions in time
such a method could not tell a clip from its reverse.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter.backbones import TokenShape


class TimePositions(nn.Module):
    """Adds one vector per frame to all its tokens; zero at first. num_frames * D parameters."""

    def __init__(self, num_frames: int, token_width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(num_frames, token_width))

    def forward(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """(B*T, P+N, D) -> the same; for another number of frames the table is resampled."""
        table: Tensor = self.table
        if shape.num_frames != len(table):
            table = F.interpolate(table.T[None], size=shape.num_frames, mode="linear")[0].T
        clips = tokens.reshape(-1, shape.num_frames, *tokens.shape[1:])  # (B, T, P+N, D)
        return (clips + table[:, None]).flatten(0, 1), shape


def check_num_frames(num_frames: int) -> None:
    """Refuse an empty table.

    Raises:
        ValueError: `num_frames` is below 1.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames ({num_frames}) must be at least 1")
