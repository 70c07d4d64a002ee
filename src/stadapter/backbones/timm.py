"""timm's vision transformers, seen as `Backbone`.

The view calls timm's own submodules in timm's own order, so a frozen view gives timm's own features.
Clips add one rule, from the published head (paper §3): with a class token, the mean over frames comes
*before* the final norm; with another pooling each frame is pooled as timm does it, then averaged.
"""

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.base import Backbone, Block, PixelConfig, TokenShape, frame_mean
from stadapter.backbones.weights import read_state_dict

RANDOM_SEED = 0
"""Seed of `pretrained=False` weights: the same name gives the same random weights each time."""


class TimmBlock(Block):
    """View of `timm.models.vision_transformer.Block`: pre-norm, LayerScale, DropPath."""

    def __init__(self, block: nn.Module, width: int) -> None:
        self.block: Any = block
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


class TimmViT(Backbone):
    """A plain ViT of timm (`timm.models.vision_transformer.VisionTransformer`)."""

    def __init__(self, model: nn.Module, *, id: str, pixels: PixelConfig) -> None:
        """Take a model made with `num_classes=0, dynamic_img_size=True`.

        Raises:
            TypeError: its blocks are of a kind whose branches this view does not know.
        """
        super().__init__()
        from timm.models.vision_transformer import Block as PlainBlock

        self.model: Any = model
        odd = sorted({type(b).__name__ for b in self.model.blocks if type(b) is not PlainBlock})
        if odd:
            raise TypeError(
                f"backbone {id!r} is built of {', '.join(odd)}; supported are timm's plain ViT blocks"
            )
        self.id = id
        self.pixels = pixels
        self.width = self.model.embed_dim
        self.patch_size = self.model.patch_embed.patch_size
        self.num_prefix_tokens = self.model.num_prefix_tokens
        self._blocks = [TimmBlock(block, self.width) for block in self.model.blocks]

    @property
    def blocks(self) -> Sequence[Block]:
        """One view per timm block."""
        return self._blocks

    def embed(self, frames: Tensor) -> Tensor:
        """Patch embedding, position (resampled when the grid is not the native one), pre-norm."""
        m = self.model
        tokens: Tensor = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(frames))))
        return tokens

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Class token: mean over frames, then norm. Else timm's pooling per frame, then the mean."""
        m = self.model
        if m.attn_pool is None and m.global_pool == "token":
            x = m.norm(frame_mean(tokens[:, 0], shape.num_frames))
        else:
            x = frame_mean(m.pool(m.norm(tokens)), shape.num_frames)
        features: Tensor = m.fc_norm(x)
        return features


def load_timm(name: str, *, weights: Path | None, pretrained: bool) -> Backbone:
    """Make the timm model `name` with weights from `weights`, from the Hub, or random.

    Args:
        name: timm's name without the "timm/", such as "vit_base_patch16_clip_224.openai".
        weights: local state dict (.safetensors, .pt, .pth, .bin) in timm's or the original layout.
        pretrained: without `weights`, fetch them from the Hub; otherwise random from a fixed seed.

    Raises:
        ValueError: unknown name, or weights which do not belong to this model.
        TypeError: a timm model which is no plain ViT.
    """
    ensure_torchvision()
    import timm

    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models() + timm.list_pretrained()
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"unknown timm backbone {name!r}; {hint}")
    options: dict[str, Any] = {"num_classes": 0}
    if weights is not None:
        options |= {"pretrained_cfg_overlay": {"state_dict": read_state_dict(weights)}}
    with torch.random.fork_rng(devices=[]), _quiet_logging():
        torch.manual_seed(RANDOM_SEED)
        model = _create(
            name, pretrained=pretrained or weights is not None, weights=weights, **options
        )
    return TimmViT(model, id=f"timm/{name}", pixels=_pixels(model))


def _create(name: str, *, pretrained: bool, weights: Path | None, **options: Any) -> nn.Module:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, dynamic_img_size=True, **options
        )
    except TypeError as error:
        raise TypeError(
            f"timm backbone {name!r} is no plain ViT (it does not take dynamic_img_size); "
            "choose a vit_*, deit* or similar name"
        ) from error
    except (RuntimeError, KeyError, OSError) as error:
        # timm raises RuntimeError when a strict load fails or no pretrained weights exist, and
        # OSError (of huggingface_hub, httpx) when the Hub cannot be reached.
        source = f"the weights in {weights}" if weights else "the pretrained weights from the Hub"
        first_lines = " ".join(str(error).split())[:300]
        raise ValueError(
            f"timm backbone {name!r} could not take {source}: {first_lines}; "
            "give a local file with --backbone_weights FILE"
        ) from error
    if not isinstance(model, VisionTransformer):
        raise TypeError(f"timm backbone {name!r} is a {type(model).__name__}, not a plain ViT")
    return model


def _pixels(model: nn.Module) -> PixelConfig:
    from timm.data import resolve_data_config

    config = resolve_data_config(model=model)
    interpolation = config["interpolation"]
    return PixelConfig(
        resolution=tuple(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
    )


class _quiet_logging:  # noqa: N801 - used like a function
    """timm announces where weights come from on the root logger; users see our own sentence."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("timm")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
