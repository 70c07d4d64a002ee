"""View of timm's `Eva`: EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT.

These add the position in every attention (rotary), so each block view needs the rotation of the
patch grid at hand. It is computed from the grid in `TokenShape` at each call: pure, so that any
resolution, `torch.compile` and export see plain tensor arithmetic, and small beside the attention.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stadapter.backbones.base import Backbone, Block, PixelConfig, TokenShape, frame_mean
from stadapter.backbones.timm_vit import readout, refuse_blocks


class EvaBlockView(Block):
    """View of `timm.models.eva.EvaBlock`: pre-norm, LayerScale by `gamma_1` and `gamma_2`."""

    def __init__(self, block: Any, index: int, model: Any) -> None:
        self.block = block
        self.index = index
        self.model = model
        self.width = self.model.embed_dim
        self.positions = "in_tokens" if self.model.rope is None else "rotary"

    def rotation(self, shape: TokenShape) -> Tensor | None:
        """Rotary table of the patch grid, (N, 2*head) or (heads, N, 2*head); sines, then cosines.

        Prefix tokens that a method added come before the patches and are not rotated.
        """
        if self.model.rope is None:
            return None
        table: Tensor = self.model.rope.get_embed(shape=[shape.height, shape.width])
        # "mixed" rotary has learned frequencies for each block: (depth, heads, N, 2*head).
        if getattr(self.model, "rope_mixed", False):
            table = table[self.index]
        added = shape.num_prefix - self.model.num_prefix_tokens
        if added:
            sines = table.new_zeros(*table.shape[:-2], added, table.shape[-1] // 2)
            table = torch.cat([torch.cat([sines, sines + 1], dim=-1), table], dim=-2)
        return table

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`drop_path1(gamma_1 * attn(norm1(x), rope))`."""
        b = self.block
        branch: Tensor = b.attn(b.norm1(tokens), rope=self.rotation(shape))
        if b.gamma_1 is not None:
            branch = b.gamma_1 * branch
        dropped: Tensor = b.drop_path1(branch)
        return dropped

    def mlp(self, tokens: Tensor) -> Tensor:
        """`drop_path2(gamma_2 * mlp(norm2(x)))`."""
        b = self.block
        branch: Tensor = b.mlp(b.norm2(tokens))
        if b.gamma_2 is not None:
            branch = b.gamma_2 * branch
        dropped: Tensor = b.drop_path2(branch)
        return dropped


class EvaPostNormBlockView(EvaBlockView):
    """View of `timm.models.eva.EvaBlockPostNorm`: the norm ends each branch."""

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`drop_path1(norm1(attn(x, rope)))`."""
        b = self.block
        branch: Tensor = b.drop_path1(b.norm1(b.attn(tokens, rope=self.rotation(shape))))
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """`drop_path2(norm2(mlp(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path2(b.norm2(b.mlp(tokens)))
        return branch


class TimmEva(Backbone):
    """A ViT with rotary position of timm (`timm.models.eva.Eva`)."""

    def __init__(self, model: Any, *, id: str, pixels: PixelConfig) -> None:
        """Take a model made with `num_classes=0, dynamic_img_size=True`.

        Raises:
            TypeError: its blocks are of a kind whose branches this view does not know.
        """
        super().__init__()
        from timm.models.eva import EvaBlock, EvaBlockPostNorm

        views = {EvaBlock: EvaBlockView, EvaBlockPostNorm: EvaPostNormBlockView}
        self.model = model
        refuse_blocks(id, self.model.blocks, views)
        self.id = id
        self.pixels = pixels
        self.width = self.model.embed_dim
        self.patch_size = self.model.patch_embed.feat_ratio(as_scalar=False)
        self.num_prefix_tokens = self.model.num_prefix_tokens
        self.num_class_tokens = int(self.model.cls_token is not None)
        self.readout = readout(self.model)
        self._blocks = [
            views[type(block)](block, i, self.model) for i, block in enumerate(self.model.blocks)
        ]

    def train(self, mode: bool = True) -> "TimmEva":
        """As `nn.Module.train`, but position stays exact.

        Some of these models jitter their coordinates in pretraining; here every block computes the
        rotation for itself, and blocks must agree.
        """
        super().train(mode)
        if self.model.rope is not None:
            self.model.rope.eval()
        return self

    @property
    def blocks(self) -> Sequence[Block]:
        """One view per timm block."""
        return self._blocks

    def embed(self, frames: Tensor) -> Tensor:
        """Patch embedding, absolute position if there is one (resampled to the grid), pre-norm."""
        m = self.model
        tokens, _ = m._pos_embed(m.patch_embed(frames))
        normed: Tensor = m.norm_pre(tokens)
        return normed

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Class token: mean over frames, then norm. Else timm's pooling per frame, then mean."""
        m = self.model
        if m.attn_pool is None and m.global_pool == "token":
            x = m.norm(frame_mean(tokens[:, 0], shape.num_frames))
        else:
            x = frame_mean(m.pool(m.norm(tokens)), shape.num_frames)
        features: Tensor = m.fc_norm(x)
        return features
