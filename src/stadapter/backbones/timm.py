"""timm's image transformers, seen as `Backbone`: which names are supported, how they are loaded.

The views themselves are in `timm_vit`, `timm_eva` and `timm_swin`, one file for each of timm's
classes. What cannot be seen as two residual branches per block is refused by name, before anything
is fetched.
"""

import difflib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.base import Backbone, PixelConfig
from stadapter.backbones.timm_eva import TimmEva
from stadapter.backbones.timm_swin import TimmSwin
from stadapter.backbones.timm_vit import TimmViT
from stadapter.backbones.weights import read_state_dict

RANDOM_SEED = 0
"""Seed of `pretrained=False` weights: the same name gives the same random weights each time."""

View = Callable[..., Backbone]
ANY_RESOLUTION: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True},
    "vision_transformer_hybrid": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
}
"""timm's supported modules, and how each is told to take other than its native resolution."""

PARALLEL = ("_18x2_", "_xp_", "pwee_")
"""Parts of the names whose blocks run attention and MLP side by side: there is no slot between."""

SUPPORTED = "plain ViTs (vit_*, deit*, eva*, aimv2_*, ...), swin_* and swinv2_*"

__all__ = [
    "RANDOM_SEED",
    "TimmEva",
    "TimmSwin",
    "TimmViT",
    "creation_options",
    "is_supported",
    "load_timm",
    "view_timm",
]


def load_timm(name: str, *, weights: Path | None, pretrained: bool) -> Backbone:
    """Make the timm model `name` with weights from `weights`, from the Hub, or random.

    Args:
        name: timm's name without the "timm/", such as "vit_base_patch16_clip_quickgelu_224.openai".
        weights: local state dict (.safetensors, .pt, .pth, .bin) in timm's or the original layout.
        pretrained: without `weights`, fetch them from the Hub; otherwise random from a fixed seed.

    Raises:
        ValueError: unknown name, or weights which do not belong to this model.
        TypeError: a timm model of an architecture without a view.
    """
    ensure_torchvision()
    import timm

    if not timm.is_model(name.split(".")[0]):
        known = [n for n in timm.list_models() + timm.list_pretrained() if is_supported(n)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`stadapter backbones` lists them"
        raise ValueError(f"unknown timm backbone {name!r}; {hint}")
    if not is_supported(name):
        home = timm.model_entrypoint(name.split(".")[0]).__module__
        raise TypeError(
            f"timm backbone {name!r} (of {home}) has no view as residual attention and MLP "
            f"branches; supported are {SUPPORTED}"
        )
    if pretrained and weights is None:
        _warn_of_quickgelu(name)
    options: dict[str, Any] = {}
    if weights is not None:
        options = {"pretrained_cfg_overlay": {"state_dict": read_state_dict(weights)}}
    with torch.random.fork_rng(devices=[]), _quiet_logging():
        torch.manual_seed(RANDOM_SEED)
        model = _create(
            name, pretrained=pretrained or weights is not None, weights=weights, **options
        )
    return view_timm(model, id=f"timm/{name}")


def is_supported(name: str) -> bool:
    """Whether timm's `name` (with or without ".tag") has a view; decided without building it."""
    ensure_torchvision()
    import timm

    architecture = name.split(".")[0]
    if not timm.is_model(architecture) or any(part in f"{architecture}_" for part in PARALLEL):
        return False
    home = timm.model_entrypoint(architecture).__module__
    return home.removeprefix("timm.models.") in ANY_RESOLUTION


def creation_options(name: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` for a supported `name`: no head, any resolution."""
    import timm

    home = timm.model_entrypoint(name.split(".")[0]).__module__
    return {"num_classes": 0, **ANY_RESOLUTION[home.removeprefix("timm.models.")]}


def view_timm(model: Any, *, id: str) -> Backbone:
    """The view of a ready timm model, made with `creation_options`.

    Raises:
        TypeError: no view for its class, or for its blocks.
    """
    ensure_torchvision()
    from timm.models.eva import Eva
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    from timm.models.vision_transformer import VisionTransformer

    views: dict[type[nn.Module], View] = {
        VisionTransformer: TimmViT,
        Eva: TimmEva,
        SwinTransformer: TimmSwin,
        SwinTransformerV2: TimmSwin,
    }
    for model_class, view in views.items():
        if isinstance(model, model_class):
            return view(model, id=id, pixels=_pixels(model))
    raise TypeError(
        f"backbone {id!r} is a {type(model).__name__}, which has no view; supported are {SUPPORTED}"
    )


def _warn_of_quickgelu(name: str) -> None:
    """Some CLIP weights stand in timm under a name with another activation than they were trained.

    timm says so in a note of its registry; the features would not be those of the published model.
    """
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    notes = " ".join(getattr(config, "notes", None) or ())
    exact = name.replace("_clip_", "_clip_quickgelu_")
    if "QuickGELU" in notes and "quickgelu" not in name and timm.is_model(exact.split(".")[0]):
        warnings.warn(
            f"the weights of timm backbone {name!r} were trained with QuickGELU, which this name "
            f"does not compute; {exact!r} is the published model",
            stacklevel=4,
        )


def _create(name: str, *, pretrained: bool, weights: Path | None, **options: Any) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, **creation_options(name), **options
        )
    except (RuntimeError, KeyError, OSError) as error:
        # timm raises RuntimeError when a strict load fails or no pretrained weights exist, and
        # OSError (of huggingface_hub, httpx) when the Hub cannot be reached.
        source = f"the weights in {weights}" if weights else "the pretrained weights from the Hub"
        first_lines = " ".join(str(error).split())[:300]
        raise ValueError(
            f"timm backbone {name!r} could not take {source}: {first_lines}; "
            "give a local file with --backbone_weights FILE"
        ) from error
    return model


def _pixels(model: Any) -> PixelConfig:
    from timm.data import resolve_data_config

    # args={} and not None: timm would otherwise warn about a missing config of a hand-made model.
    config = resolve_data_config(args={}, model=model)
    interpolation = config["interpolation"]
    patch = model.patch_embed.feat_ratio(as_scalar=False)
    # Some models (SigLIP so400m at 384, patch 14) never see the last pixels of their native size.
    height, width = (
        max(p, side // p * p) for side, p in zip(model.patch_embed.img_size, patch, strict=True)
    )
    return PixelConfig(
        resolution=(height, width),
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
