"""Temporal-only fine-tuning: new attention over time between the blocks of a frozen backbone.

This is divided space-time attention (TimeSformer; Bertasius et al., ICML 2021, arXiv 2102.05095,
§3) of which only the temporal half trains. Before the spatial attention of each block,

    x = x + out(attention(norm(x) along time))

among the patch tokens of one place in all frames; prefix tokens pass untouched. `out` is zero at
first, and learned positions of frames are added to the embedded tokens. Trains L * (4 d^2 + 6 d)
+ T d with L blocks of token width d and T frames: 28,372,992 on ViT-B/16 with 8 frames.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stadapter.backbones import Backbone, TokenShape
from stadapter.backbones.frozen import Storage
from stadapter.methods.attention import Attention
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, MethodConfig, Site, last_blocks
from stadapter.methods.positions import TimePositions, check_num_frames


@dataclass(frozen=True)
class TemporalAttentionConfig(MethodConfig):
    """Settings of temporal-only fine-tuning."""

    name: ClassVar[str] = "temporal_attention"
    # Its own norms read the residual stream, which bf16 would make bf16.
    storages: ClassVar[tuple[Storage, ...]] = ("fp32", "int8")

    last_blocks: int | None = None
    """Only the last so many blocks get attention over time; None: all."""
    num_frames: int = 8
    """T, frames with a position of their own; positions are resampled for clips of another T."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_frames(self.num_frames)
        if self.last_blocks is not None and self.last_blocks < 1:
            raise ValueError(
                f"last_blocks ({self.last_blocks}) must be at least 1, or None for all"
            )

    @property
    def sees_order(self) -> bool:
        """By the positions of frames."""
        return True

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """One temporal attention in each of the last blocks, positions, and a linear head.

        Raises:
            ValueError: `last_blocks` exceeds the backbone's depth.
        """
        adapters: dict[tuple[Site, int], nn.Module] = {
            ("attention", i): TemporalAttention(backbone.blocks[i].width)
            for i in last_blocks(backbone, self.last_blocks)
        }
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            adapters=adapters,
            preparation=TimePositions(self.num_frames, backbone.blocks[0].width),
        )


class TemporalAttention(nn.Module):
    """Attention among the patches of one place; the identity at first."""

    def __init__(self, token_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(token_width)
        self.attention = Attention(token_width)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """(B*T, P+N, D) -> the same."""
        T, H, W, P = shape
        prefix, patches = tokens[:, :P], tokens[:, P:]
        N, D = H * W, tokens.shape[-1]
        places = (
            self.norm(patches).reshape(-1, T, N, D).transpose(1, 2).flatten(0, 1)
        )  # (B*N, T, D)
        found = self.attention(places, places).reshape(-1, N, T, D)
        return torch.cat([prefix, patches + found.transpose(1, 2).reshape(-1, N, D)], dim=1)
