"""View of timm's Swin (v1 and v2): hierarchical, the token grid halved stage by stage.

Blocks attend within shifted windows and need tokens on their grid; between stages 2 x 2 patches are
merged into one of a new width (`Block.merge`), so adapters of later blocks are wider and see a
smaller grid. Windows keep their pretrained size at every resolution: grids which they do not tile
are padded inside the block, as timm does it with `strict_img_size=False`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter.backbones.base import Backbone, Block, PixelConfig, TokenShape, frame_mean


class SwinBlockView(Block):
    """View of `SwinTransformerBlock`: window attention between norm and DropPath."""

    positions = "windows"

    def __init__(self, block: Any, merging: Any | None) -> None:
        self.block = block
        self.merging = merging
        self.width = self.block.dim

    def merge(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """At a stage's start: (B*T, H*W, D) -> (B*T, H/2*W/2, 2*D); odd sides are padded."""
        if self.merging is None:
            return tokens, shape
        T, H, W, P = shape
        merged: Tensor = self.merging(_on_grid(tokens, shape))  # (B*T, H/2, W/2, 2*D)
        return merged.flatten(1, 2), TokenShape(T, (H + 1) // 2, (W + 1) // 2, P)

    def windows(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """timm's shifted-window attention on flat tokens, (B*T, H*W, D) -> the same."""
        attended: Tensor = self.block._attn(_on_grid(tokens, shape))
        return attended.flatten(1, 2)

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`drop_path1(attn(norm1(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path1(self.windows(b.norm1(tokens), shape))
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """`drop_path2(mlp(norm2(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path2(b.mlp(b.norm2(tokens)))
        return branch

    def attention_weights(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """As in `Block`, zero between windows. Where a window is padded, part of a row falls on the
        padding, and the sum is below 1."""
        windows = super().attention_weights(tokens, shape)  # (B*T*windows, heads, area, area)
        frames, N = tokens.shape[:2]
        windows = windows.reshape(frames, -1, *windows.shape[1:])
        # One row and one column more, for the padding.
        weights = windows.new_zeros(frames, windows.shape[2], N + 1, N + 1)
        for i, places in enumerate(self._places(shape, tokens.device)):
            weights[:, :, places[:, None], places] = windows[:, i]
        on_tokens: Tensor = weights[..., :N, :N]
        return on_tokens

    def _places(self, shape: TokenShape, device: torch.device) -> Tensor:
        """Which token stands where in which window, (windows, area); N for padding."""
        from timm.models.swin_transformer import window_partition

        H, W = shape.height, shape.width
        (down, right), (high, wide) = self.block.shift_size, self.block.window_size
        grid = torch.arange(H * W, device=device).reshape(1, H, W, 1)
        grid = grid.roll((-down, -right), (1, 2))
        grid = F.pad(grid, (0, 0, 0, -W % wide, 0, -H % high), value=H * W)
        places: Tensor = window_partition(grid, (high, wide)).flatten(1)
        return places


class SwinV2BlockView(SwinBlockView):
    """View of `SwinTransformerV2Block`: the norm ends each branch."""

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`drop_path1(norm1(attn(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path1(b.norm1(self.windows(tokens, shape)))
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """`drop_path2(norm2(mlp(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path2(b.norm2(b.mlp(tokens)))
        return branch


class TimmSwin(Backbone):
    """A Swin of timm (`SwinTransformer`, `SwinTransformerV2`); no prefix tokens."""

    num_prefix_tokens = 0

    def __init__(self, model: Any, *, id: str, pixels: PixelConfig) -> None:
        """Take a model made with `num_classes=0, strict_img_size=False`."""
        super().__init__()
        from timm.models.swin_transformer_v2 import SwinTransformerV2

        self.model = model
        self.id = id
        self.pixels = pixels
        self.width = self.model.num_features
        self.patch_size = self.model.patch_embed.patch_size
        view = SwinV2BlockView if isinstance(model, SwinTransformerV2) else SwinBlockView
        self._blocks: list[Block] = []
        for stage in self.model.layers:
            merging = None if isinstance(stage.downsample, nn.Identity) else stage.downsample
            for i, block in enumerate(stage.blocks):
                self._blocks.append(view(block, merging if i == 0 else None))

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of all stages in order; widths differ."""
        return self._blocks

    def embed(self, frames: Tensor) -> Tensor:
        """Patch embedding with its norm; position is inside the window attention."""
        grid: Tensor = self.model.patch_embed(frames)  # (B*T, H, W, D)
        return grid.flatten(1, 2)

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Norm, timm's pooling over the last grid, then the mean over frames."""
        m = self.model
        pooled: Tensor = m.head(_on_grid(m.norm(tokens), shape), pre_logits=True)
        return frame_mean(pooled, shape.num_frames)


def _on_grid(tokens: Tensor, shape: TokenShape) -> Tensor:
    return tokens.reshape(-1, shape.height, shape.width, tokens.shape[-1])
