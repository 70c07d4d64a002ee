"""AIM (Yang et al., ICLR 2023, arXiv 2302.03024): the frozen attention used again, over time.

In each block, in this order (§3.2 to 3.4):

    x = x + up_t(gelu(down_t(attention(x along time))))     the block's own attention, frozen
    x = x + attention(x) + up_s(gelu(down_s(attention(x)))) spatial adapter
    x = x + mlp(x) + scale * up_j(gelu(down_j(norm(x))))    joint adapter, beside the MLP

and learned positions of frames are added to the embedded tokens. Trains L * 3 (2dA + A + d) + T d
with L blocks of token width d, adapter width A and T frames: 10,657,536 on ViT-B/16 with A = d / 4
and 8 frames. The joint adapter's norm has no weights of its own, which `down_j` makes up for.

Attention over time puts the tokens of one place in all frames together. That is possible where
position lies in the tokens; rotary position and windows belong to the patch grid, so such backbones
are refused.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stadapter.backbones import Backbone, Block, TokenShape
from stadapter.backbones.frozen import Storage
from stadapter.methods.bottleneck import (
    Bottleneck,
    BottleneckConfig,
    ParallelAdapter,
    SerialAdapter,
)
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, Site
from stadapter.methods.positions import TimePositions, check_num_frames


@dataclass(frozen=True)
class AIMConfig(BottleneckConfig):
    """Settings of AIM; the defaults are the published ones."""

    name: ClassVar[str] = "aim"
    # Its own norms read the residual stream, which bf16 would make bf16.
    storages: ClassVar[tuple[Storage, ...]] = ("fp32", "int8")

    width: int | float = 0.25
    """A, channels of the bottleneck; a fraction (0.25) is taken of each block's token width."""
    scale: float = 0.5
    """Factor on what the joint adapter adds."""
    num_frames: int = 8
    """T, frames with a position of their own; positions are resampled for clips of another T."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_frames(self.num_frames)
        if self.scale <= 0:
            raise ValueError(f"scale ({self.scale}) must be above 0")

    @property
    def sees_order(self) -> bool:
        """By the positions of frames."""
        return True

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """Three adapters in each of the last blocks, positions of frames, and a linear head.

        Raises:
            ValueError: `last_blocks` exceeds the backbone's depth, or its attention is tied to the
                patch grid.
        """
        adapters: dict[tuple[Site, int], nn.Module] = {}
        branches: dict[tuple[Site, int], nn.Module] = {}
        for i, (d, width) in self.block_widths(backbone).items():
            block = backbone.blocks[i]
            if block.positions != "in_tokens":
                raise ValueError(
                    f"method 'aim' uses a block's attention over time, but in backbone "
                    f"{backbone.id!r} attention is tied to the patch grid ({block.positions}); "
                    "take a plain ViT, or method 'temporal_attention'"
                )
            adapters["attention", i] = TimeAttentionAdapter(block, d, width)
            branches["attention", i] = SerialAdapter(d, width, "gelu")
            branches["mlp", i] = ParallelAdapter(d, width, "gelu", self.scale, normed=True)
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            adapters=adapters,
            branches=branches,
            preparation=TimePositions(self.num_frames, backbone.blocks[0].width),
        )


class TimeAttentionAdapter(nn.Module):
    """Adds what a block's own attention finds among the tokens of one place, through a bottleneck;
    the identity at first."""

    block: Block

    def __init__(self, block: Block, token_width: int, width: int) -> None:
        super().__init__()
        self.__dict__["block"] = block  # never a submodule: it belongs to the backbone
        self.bottleneck = Bottleneck(token_width, width, "gelu")

    def forward(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """(B*T, P+N, D) -> the same, class token included."""
        T = shape.num_frames
        n, d = tokens.shape[1:]
        clips = tokens.reshape(-1, T, n, d)
        places = clips.transpose(1, 2).flatten(0, 1)  # (B*(P+N), T, D)
        places = self.block.attention(places, TokenShape(1, T, 1, 0))
        found = places.reshape(-1, n, T, d).transpose(1, 2).reshape(-1, n, d)
        changed: Tensor = tokens + self.bottleneck(found)
        return changed
