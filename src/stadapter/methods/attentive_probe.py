"""Attentive probe: learned queries gather from all tokens of the frozen backbone's last block.

Cross attention in place of the backbone's pooling (attentive probing: Chen et al., IJCV 2023, arXiv
2202.03026; over video tokens: Bardes et al., 2024, arXiv 2404.08471):

    features = mean over queries of attention(queries, norm(tokens)),  tokens (T * (P+N), D)

Trains 4 (d^2 + d) + 2d + Q d with token width d and Q queries: 2,364,672 on ViT-B/16 with Q = 1.

The tokens of an image backbone do not say when they were seen, so the probe gathers from all frames
but is blind to their order, unless `time_positions` adds a fixed sine and cosine code of each
frame (Vaswani et al., 2017, §3.5) to its tokens.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stadapter.backbones import Backbone, TokenShape
from stadapter.methods.attention import Attention
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, MethodConfig


@dataclass(frozen=True)
class AttentiveProbeConfig(MethodConfig):
    """Settings of the attentive probe."""

    name: ClassVar[str] = "attentive_probe"
    starts_unchanged: ClassVar[bool] = False

    num_queries: int = 1
    """Q, learned queries; their answers are averaged."""
    time_positions: bool = False
    """Tell the tokens of each frame when it was seen; without it the probe is blind to order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_queries < 1:
            raise ValueError(f"num_queries ({self.num_queries}) must be at least 1")

    @property
    def sees_order(self) -> bool:
        """With positions in time only."""
        return self.time_positions

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """The pooling and a linear head on its features.

        Raises:
            ValueError: tokens whose width cannot be divided into heads.
        """
        width = backbone.blocks[-1].width
        return AdapterSet(
            self,
            LinearHead(width, num_classes, dropout=self.dropout),
            pool=AttentivePool(width, self.num_queries, time_positions=self.time_positions),
        )


class AttentivePool(nn.Module):
    """Tokens of all frames -> one feature per clip."""

    def __init__(self, width: int, num_queries: int, *, time_positions: bool) -> None:
        super().__init__()
        self.time_positions = time_positions
        self.queries = nn.Parameter(torch.empty(num_queries, width))
        nn.init.normal_(self.queries, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width)

    def forward(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """(B*T, P+N, D) -> (B, D)."""
        clips = self.norm(tokens).reshape(-1, shape.num_frames, *tokens.shape[1:])  # (B, T, P+N, D)
        if self.time_positions:
            clips = clips + frame_code(shape.num_frames, clips)[:, None]
        queries = self.queries.expand(len(clips), -1, -1)
        gathered: Tensor = self.attention(queries, clips.flatten(1, 2))
        return gathered.mean(1)


def frame_code(num_frames: int, like: Tensor) -> Tensor:
    """Sines and cosines (T, D) of the number of each frame; type and device of `like`."""
    D = like.shape[-1]
    rates = torch.exp(torch.arange(0, D, 2, device=like.device) * (-math.log(10_000.0) / D))
    angles = torch.arange(num_frames, device=like.device)[:, None] * rates  # (T, D/2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :D].to(like.dtype)
