"""View of timm's `VisionTransformer`: CLIP, AugReg, DeiT, MAE, DINO, DINOv2, SigLIP and their kin.

The view calls timm's own submodules in timm's own order, so a frozen view gives timm's features.
Clips add one rule, from the published head (paper §3): with a class token, the mean over frames
comes *before* the final norm; with another pooling each frame is pooled as timm does it, then
averaged.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from stadapter.backbones.attention import recorded_weights
from stadapter.backbones.base import (
    Backbone,
    Block,
    PixelConfig,
    Readout,
    TokenShape,
    frame_mean,
)


class TimmBlock(Block):
    """View of `timm.models.vision_transformer.Block`: pre-norm, LayerScale, DropPath."""

    def __init__(self, block: Any, width: int) -> None:
        self.block = block
        self.width = width

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`drop_path1(ls1(attn(norm1(x))))`."""
        b = self.block
        branch: Tensor = b.drop_path1(b.ls1(b.attn(b.norm1(tokens))))
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """`drop_path2(ls2(mlp(norm2(x))))`."""
        b = self.block
        branch: Tensor = b.drop_path2(b.ls2(b.mlp(b.norm2(tokens))))
        return branch

    def attention_weights(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """As in `Block`. Differential attention (Ye et al., arXiv 2410.05258, equation 1) takes the
        difference of two, so that weights may be negative and rows do not sum to 1."""
        attn = self.block.attn
        if not hasattr(attn, "lambda_init"):
            return super().attention_weights(tokens, shape)
        recorded = recorded_weights(partial(self.attention, tokens, shape))
        if len(recorded) == 2:  # fused: one call for each half of the heads
            first, second = recorded
        else:
            first, second = recorded[0][:, 0::2], recorded[0][:, 1::2]
        difference: Tensor = first - attn._compute_lambda() * second
        return difference


class TimmPostNormBlock(TimmBlock):
    """View of `timm.models.vision_transformer.ResPostBlock`: the norm ends each branch."""

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`drop_path1(norm1(attn(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path1(b.norm1(b.attn(tokens)))
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """`drop_path2(norm2(mlp(x)))`."""
        b = self.block
        branch: Tensor = b.drop_path2(b.norm2(b.mlp(tokens)))
        return branch


class TimmViT(Backbone):
    """A plain ViT of timm (`timm.models.vision_transformer.VisionTransformer`)."""

    def __init__(self, model: Any, *, id: str, pixels: PixelConfig) -> None:
        """Take a model made with `num_classes=0, dynamic_img_size=True`.

        Raises:
            TypeError: its blocks are of a kind whose branches this view does not know.
        """
        super().__init__()
        from timm.models.vision_transformer import Block as PlainBlock
        from timm.models.vision_transformer import ResPostBlock

        views = {PlainBlock: TimmBlock, ResPostBlock: TimmPostNormBlock}
        self.model = model
        refuse_blocks(id, self.model.blocks, views)
        self.id = id
        self.pixels = pixels
        self.width = self.model.embed_dim
        self.patch_size = self.model.patch_embed.feat_ratio(as_scalar=False)
        self.num_prefix_tokens = self.model.num_prefix_tokens
        # DeiT's distilled models are pooled over two tokens, which timm's flags do not tell.
        self._distilled = hasattr(self.model, "dist_token")
        self.num_class_tokens = 2 if self._distilled else int(self.model.has_class_token)
        self.readout = "class_token" if self._distilled else readout(self.model)
        self._blocks = [views[type(block)](block, self.width) for block in self.model.blocks]

    @property
    def blocks(self) -> Sequence[Block]:
        """One view per timm block."""
        return self._blocks

    def embed(self, frames: Tensor) -> Tensor:
        """Patch embedding, position (resampled when the grid is not the native one), pre-norm."""
        m = self.model
        tokens: Tensor = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(frames))))
        return tokens.contiguous()  # without prefix tokens they come in the convolution's layout

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Class token: mean over frames, then norm. Else timm's pooling per frame, then the mean.

        A distilled DeiT has two class tokens; the feature is their mean, as in timm.
        """
        m = self.model
        if self._distilled:
            pair: Tensor = m.norm(frame_mean(tokens[:, :2], shape.num_frames))  # (B, 2, D)
            return pair.mean(1)
        if m.attn_pool is None and m.global_pool == "token":
            x = m.norm(frame_mean(tokens[:, 0], shape.num_frames))
        else:
            x = frame_mean(m.pool(m.norm(tokens)), shape.num_frames)
        features: Tensor = m.fc_norm(x)
        return features


def readout(model: Any) -> Readout:
    """How a ViT or Eva of timm makes one feature of a frame's tokens."""
    if model.attn_pool is not None:
        return "attention_pooling"
    return "class_token" if model.global_pool == "token" else "mean"


def refuse_blocks(id: str, blocks: nn.Module, known: Any) -> None:
    """Check that every block is of a class in `known`.

    Raises:
        TypeError: one is not; the message names it and what is supported.
    """
    assert isinstance(blocks, (nn.Sequential, nn.ModuleList))
    odd = sorted({type(block).__name__ for block in blocks if type(block) not in known})
    if odd:
        raise TypeError(
            f"backbone {id!r} is built of {', '.join(odd)}, which has no residual stream between "
            f"attention and MLP; supported are {', '.join(sorted(k.__name__ for k in known))}"
        )
