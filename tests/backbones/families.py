"""One small random model for each family of image transformers that a view supports.

A row makes the library's own model from the kwargs of a real entry, only narrower and shallower,
and says how that library computes the features which the view must reproduce.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones import Backbone
from stadapter.backbones.timm import creation_options, view_timm
from stadapter.backbones.transformers import TransformersViT

ensure_torchvision()
import timm  # noqa: E402
import transformers  # noqa: E402

Size = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """A family: how to make it, where it is at home, and elsewhere."""

    family: str
    make_model: Callable[[], Any]
    view: Callable[[Any], Backbone]
    features: Callable[[Any, Tensor], Tensor]
    native: Size
    other: Size

    def make(self) -> Backbone:
        """The view of a small model with random weights, the same each time."""
        return self.view(copy.deepcopy(_random_model(self))).eval()


@cache
def _random_model(row: Row) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = row.make_model()
        with torch.no_grad():
            for parameter in model.parameters():  # LayerScale starts near zero: hide nothing
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _timm(
    family: str,
    name: str,
    native: int = 64,
    other: Size = (48, 80),
    width: int = 32,
    **changes: Any,
) -> Row:
    options = {"img_size": native, **creation_options(name)}
    if not name.startswith("swin"):
        options |= {"embed_dim": width, "depth": 2, "num_heads": 2}

    def make_model() -> nn.Module:
        model: nn.Module = timm.create_model(name, **{**options, **changes})
        return model

    def features(model: Any, frames: Tensor) -> Tensor:
        pooled: Tensor = model.forward_head(model.forward_features(frames), pre_logits=True)
        return pooled

    def view(model: Any) -> Backbone:
        return view_timm(model, id=f"timm/{name}")

    return Row(family, make_model, view, features, (native, native), other)


def _transformers(
    family: str,
    class_name: str,
    config_class: str,
    feature: Callable[[Any], Tensor] = lambda output: output.pooler_output,
    *,
    patch: int = 8,
    **changes: Any,
) -> Row:
    options = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 4 * patch,
        "patch_size": patch,
        **changes,
    }

    def make_model() -> Any:
        return getattr(transformers, class_name)(getattr(transformers, config_class)(**options))

    def features(model: Any, frames: Tensor) -> Tensor:
        asks = class_name in ("CLIPVisionModel", "SiglipVisionModel", "ViTModel")
        return feature(model(frames, **({"interpolate_pos_encoding": True} if asks else {})))

    other = (3 * patch, 5 * patch)
    native = (4 * patch, 4 * patch)
    return Row(family, make_model, TransformersViT, features, native, other)


SWIN = {"embed_dim": 16, "depths": (2, 1, 2), "num_heads": (1, 2, 4), "drop_path_rate": 0.0}
DINOV3 = {"num_register_tokens": 4, "layerscale_value": 1.0}

ROWS = [
    _timm("OpenAI CLIP, MetaCLIP, DFN", "vit_base_patch16_clip_quickgelu_224"),
    _timm("OpenCLIP", "vit_base_patch32_clip_224", 64, (96, 64)),
    _timm("AugReg, MAE, DINO", "vit_base_patch16_224"),
    _timm("DeiT", "deit_base_patch16_224"),
    _timm("DeiT distilled", "deit_base_distilled_patch16_224"),
    _timm("DeiT III", "deit3_small_patch16_224"),
    _timm("DINOv2", "vit_small_patch14_dinov2", 56, (28, 70)),
    _timm("DINOv2 with registers", "vit_small_patch14_reg4_dinov2", 56, (28, 70)),
    _timm("SigLIP, SigLIP 2", "vit_base_patch16_siglip_224"),
    _timm("registers, average pooling", "vit_base_patch16_reg4_gap_256"),
    _timm("AIMv2", "aimv2_large_patch14_224", 56, (28, 70)),
    _timm("post-norm ViT", "vit_base_patch16_rpn_224"),
    _timm("hybrid ViT", "vit_tiny_r_s16_p8_224", 64, (32, 64)),
    _timm("EVA", "eva_giant_patch14_224", 56, (28, 70)),
    _timm("EVA-CLIP, post-norm", "eva02_enormous_patch14_clip_224", 56, (28, 70)),
    _timm("EVA-02", "eva02_base_patch14_224", 56, (28, 70)),
    _timm("EVA-02, split qkv", "eva02_base_patch16_clip_224"),
    _timm("DINOv3", "vit_small_patch16_dinov3"),
    _timm("DINOv3, SwiGLU", "vit_small_plus_patch16_dinov3"),
    _timm("Perception Encoder", "vit_pe_core_tiny_patch16_384", attn_pool_num_heads=2),
    _timm("RoPE-ViT mixed", "vit_small_patch16_rope_mixed_224"),
    _timm("Swin", "swin_tiny_patch4_window7_224", 56, (40, 72), **SWIN),
    _timm("Swin v2", "swinv2_tiny_window8_256", 64, (40, 72), **SWIN),
    _transformers("HF CLIP", "CLIPVisionModel", "CLIPVisionConfig"),
    _transformers("HF SigLIP", "SiglipVisionModel", "SiglipVisionConfig"),
    _transformers("HF DINOv2", "Dinov2Model", "Dinov2Config", patch=14),
    _transformers(
        "HF DINOv2 with registers", "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"
    ),
    _transformers("HF DINOv3", "DINOv3ViTModel", "DINOv3ViTConfig", **DINOV3),
    _transformers("HF ViT", "ViTModel", "ViTConfig", lambda output: output.last_hidden_state[:, 0]),
]
