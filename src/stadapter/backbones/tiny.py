"""The embedded default backbone: a small plain ViT with its weights in the package.

0.8 M parameters, patch 8, 64 x 64 pixels, pretrained on generated still images by
`tools/pretrain_tiny.py` (see docs/tiny.md), so that everything works without a download.
"""

from pathlib import Path
from typing import Any

import torch

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.base import Backbone, PixelConfig
from stadapter.backbones.timm import RANDOM_SEED, TimmViT
from stadapter.backbones.weights import read_state_dict

WEIGHTS = Path(__file__).with_name("tiny.safetensors")
PIXELS = PixelConfig(resolution=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def build_tiny() -> Any:
    """The bare timm model with random weights from torch's global generator."""
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=PIXELS.resolution,
        patch_size=8,
        embed_dim=128,
        depth=4,
        num_heads=4,
        num_classes=0,
        # Patch tokens were pretrained to say where things are, and adapters act on them; the class
        # token, whose own targets were hardly learned (docs/tiny.md), would see both indirectly.
        global_pool="avg",
        fc_norm=False,
        dynamic_img_size=True,
    )


def load_tiny(*, weights: Path | None = None, pretrained: bool = True) -> Backbone:
    """Make the embedded backbone; `weights` or `pretrained=False` replace the packaged ones.

    Raises:
        ValueError: `weights` are those of another model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = build_tiny()
    if weights is not None or pretrained:
        path = weights or WEIGHTS
        try:
            model.load_state_dict(read_state_dict(path))
        except RuntimeError as error:
            raise ValueError(f"{path} does not hold weights of backbone 'tiny': {error}") from error
    return TimmViT(model, id="tiny", pixels=PIXELS)
