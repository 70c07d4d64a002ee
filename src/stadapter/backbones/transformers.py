"""Hugging Face vision towers (library `transformers`, an extra), seen as `Backbone`.

One description per family (`FAMILIES`) says which submodules of its layers make the two residual
branches; one view serves them all. Weights come from the Hub or from a folder as `save_pretrained`
writes it. Pixel statistics come from the image processor's file beside them, where there is one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.base import (
    Backbone,
    Block,
    Interpolation,
    PixelConfig,
    TokenShape,
    frame_mean,
)
from stadapter.backbones.weights import read_state_dict

RANDOM_SEED = 0
"""Seed of `pretrained=False` weights."""

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
Rotate = Callable[[Tensor, TokenShape], tuple[Tensor, Tensor]]
_INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # as PIL counts them


@dataclass(frozen=True)
class Family:
    """How one of the library's vision towers is built and what pixels it was trained on."""

    model_class: str
    """Its class in `transformers`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    """Pixel statistics where no image processor's file says otherwise."""
    layers: str
    """Where the blocks are."""
    norm: str
    """The norm after the last block."""
    attention: tuple[str, ...]
    """Submodules of a layer whose composition is the attention branch."""
    mlp: tuple[str, ...]
    """Submodules of a layer whose composition is the MLP branch."""
    pre_norm: str | None = None
    """A norm between embeddings and first block."""
    class_token: bool = True
    """Whether the feature is the class token."""
    rotary: bool = False
    """Whether attention takes the position of patches."""
    resamples_on_request: bool = True
    """Whether the embeddings must be asked to fit their position table to the grid."""
    class_options: tuple[tuple[str, Any], ...] = ()
    """Arguments of the class that leave unused parts out."""


_CLIP = Family(
    "CLIPVisionModel",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    interpolation="bicubic",
    layers="encoder.layers",
    norm="post_layernorm",
    attention=("layer_norm1", "self_attn"),
    mlp=("layer_norm2", "mlp"),
    pre_norm="pre_layrnorm",  # the library's spelling
)
_DINOV2 = Family(
    "Dinov2Model",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    interpolation="bicubic",
    layers="encoder.layer",
    norm="layernorm",
    attention=("norm1", "attention", "layer_scale1", "drop_path"),
    mlp=("norm2", "mlp", "layer_scale2", "drop_path"),
    resamples_on_request=False,
)
FAMILIES: dict[str, Family] = {
    "clip_vision_model": _CLIP,
    "siglip_vision_model": replace(
        _CLIP,
        model_class="SiglipVisionModel",
        mean=HALF,
        std=HALF,
        pre_norm=None,
        class_token=False,
    ),
    "dinov2": _DINOV2,
    "dinov2_with_registers": replace(_DINOV2, model_class="Dinov2WithRegistersModel"),
    "dinov3_vit": replace(
        _DINOV2,
        model_class="DINOv3ViTModel",
        interpolation="bilinear",
        layers="model.layer",
        norm="norm",
        rotary=True,
    ),
    "vit": Family(
        "ViTModel",
        mean=HALF,
        std=HALF,
        interpolation="bilinear",
        layers="layers",
        norm="layernorm",
        attention=("layernorm_before", "attention", "dropout"),
        mlp=("layernorm_after", "mlp", "dropout"),
        class_options=(("add_pooling_layer", False),),
    ),
}
"""`model_type` in the library's config -> how to see it."""


class TransformersBlock(Block):
    """View of one encoder layer: each branch is a chain of the layer's own submodules."""

    def __init__(self, layer: Any, family: Family, *, width: int, rotate: Rotate | None) -> None:
        self.width = width
        self.rotate = rotate
        self.positions = "in_tokens" if rotate is None else "rotary"
        self.norm, self.self_attention, *self.scales = (getattr(layer, n) for n in family.attention)
        self.mlp_chain = [getattr(layer, name) for name in family.mlp]

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Norm, attention among the tokens of a frame, then LayerScale and DropPath if present."""
        options: dict[str, Any] = {"attention_mask": None}
        if self.rotate is not None:
            options["position_embeddings"] = self.rotate(tokens, shape)
        branch: Tensor = self.self_attention(self.norm(tokens), **options)[0]
        for module in self.scales:
            branch = module(branch)
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """Norm, MLP, then LayerScale and DropPath if present."""
        for module in self.mlp_chain:
            tokens = module(tokens)
        return tokens


class TransformersViT(Backbone):
    """A vision tower of Hugging Face's `transformers`."""

    def __init__(
        self, model: Any, *, id: str | None = None, pixels: PixelConfig | None = None
    ) -> None:
        """Take a ready `PreTrainedModel` of one of `FAMILIES`, such as `CLIPVisionModel(config)`.

        Args:
            model: a vision tower; the pooler of a `ViTModel` is not used.
            id: by default "transformers/" and the name or path it was loaded from, or its class.
            pixels: by default what the family was trained on, at the config's `image_size`.

        Raises:
            TypeError: another model, or one which this release of `transformers` builds otherwise.
        """
        super().__init__()
        config = model.config
        self.id = id or f"transformers/{config.name_or_path or type(model).__name__}"
        self.family = _family(config, self.id)
        if type(model).__name__ != self.family.model_class:
            raise TypeError(
                f"backbone {self.id!r} is a {type(model).__name__}; give its vision tower, "
                f"a {self.family.model_class}"
            )
        self.model = model
        self.width = config.hidden_size
        self.patch_size = _pair(config.patch_size)
        registers = getattr(config, "num_register_tokens", 0)
        self.num_class_tokens = int(self.family.class_token)
        self.num_prefix_tokens = 1 + registers if self.family.class_token else 0
        if self.family.class_token:
            self.readout = "class_token"
        elif model.use_head:
            self.readout = "attention_pooling"
        self.pixels = pixels or _pixels(self.family, config, {})
        rotate = self._rotate if self.family.rotary else None
        try:
            self._blocks = [
                TransformersBlock(layer, self.family, width=self.width, rotate=rotate)
                for layer in model.get_submodule(self.family.layers)
            ]
        except AttributeError as error:
            raise TypeError(
                f"backbone {self.id!r}: the installed transformers builds {type(model).__name__} "
                f"otherwise than this view expects ({error}); pip install -U transformers"
            ) from error

    def train(self, mode: bool = True) -> "TransformersViT":
        """As `nn.Module.train`, but rotary position stays exact (DINOv3 jitters it in pretraining):
        every block computes it for itself, and blocks must agree.
        """
        super().train(mode)
        if self.family.rotary:
            self.model.rope_embeddings.eval()
        return self

    @property
    def blocks(self) -> Sequence[Block]:
        """One view per encoder layer."""
        return self._blocks

    def embed(self, frames: Tensor) -> Tensor:
        """Patch embedding, prefix tokens, position (resampled to the grid), pre-norm."""
        options = {"interpolate_pos_encoding": True} if self.family.resamples_on_request else {}
        tokens: Tensor = self.model.embeddings(frames.to(self.model.dtype), **options)
        if self.family.pre_norm is not None:
            tokens = getattr(self.model, self.family.pre_norm)(tokens)
        return tokens

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Class token: mean over frames, then norm. SigLIP: its head per frame, then the mean.

        A SigLIP tower without a head gives the mean over its patches.
        """
        norm = getattr(self.model, self.family.norm)
        if self.family.class_token:
            features: Tensor = norm(frame_mean(tokens[:, 0], shape.num_frames))
            return features
        tokens = norm(tokens)
        pooled = self.model.head(tokens) if self.model.use_head else tokens.mean(1)
        return frame_mean(pooled, shape.num_frames)

    def _rotate(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, Tensor]:
        """Cosine and sine (N, head) of the patch grid, from the library's module.

        That module takes the grid from the height and width of an image, so it gets one without
        memory.
        """
        height, width = shape.height * self.patch_size[0], shape.width * self.patch_size[1]
        image = tokens.new_empty(()).expand(1, 1, height, width)
        cos_sin: tuple[Tensor, Tensor] = self.model.rope_embeddings(image)
        return cos_sin


def load_transformers(name: str, *, weights: Path | None, pretrained: bool) -> Backbone:
    """Make the vision tower `name`: a Hub name "ORG/NAME" or a local folder.

    Args:
        name: where config, weights and image processor are; "transformers/" is already cut off.
        weights: a folder to take all of them from, or a file with weights alone.
        pretrained: False takes random weights from a fixed seed; the config is still read.

    Raises:
        ImportError: the `transformers` extra is not installed.
        ValueError: no such model, or weights which do not belong to it.
        TypeError: a model that is none of `FAMILIES`.
    """
    transformers = _import_transformers()
    source = str(weights if weights is not None and weights.is_dir() else name)
    id = f"transformers/{name}"
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"backbone {id!r}: no config at {source!r} ({_first_words(error)}); give a Hub "
                "name (transformers/ORG/NAME) or a folder with config.json (transformers/PATH)"
            ) from error
        config = getattr(config, "vision_config", config)
        family = _family(config, id)
        try:
            processor, _ = transformers.BaseImageProcessor.get_image_processor_dict(source)
        except (OSError, ValueError):
            processor = {}  # not every checkpoint has one
        model_class = getattr(transformers, family.model_class)
        options = dict(family.class_options)
        if pretrained or weights is not None:
            model = _load(model_class, source, config, id=id, weights=weights, **options)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(RANDOM_SEED)
                model = model_class(config, **options)
    return TransformersViT(model.eval(), id=id, pixels=_pixels(family, config, processor))


def _load(
    model_class: Any, source: str, config: Any, *, id: str, weights: Path | None, **options: Any
) -> Any:
    if weights is not None and not weights.is_dir():
        options |= {"state_dict": read_state_dict(weights)}
    try:
        model, report = model_class.from_pretrained(
            None if "state_dict" in options else source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"backbone {id!r}: no weights from {weights or source}: {_first_words(error)}; "
            "give a local folder or file with --backbone_weights PATH"
        ) from error
    # The library would go on with random values in their place.
    absent = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
    if absent:
        raise ValueError(
            f"backbone {id!r}: {weights or source} does not hold its weights; "
            f"{len(absent)} are missing or of another shape, such as {absent[0]}"
        )
    return model


def _import_transformers() -> Any:
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "backbones 'transformers/...' need the library transformers; "
            "pip install stadapter[transformers]"
        ) from error
    return transformers


def _family(config: Any, id: str) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise TypeError(
            f"backbone {id!r} is of type {config.model_type!r}, which has no view; supported are "
            f"{', '.join(FAMILIES)} (and the vision towers of clip and siglip)"
        )
    return family


def _pixels(family: Family, config: Any, processor: Mapping[str, Any]) -> PixelConfig:
    """What the image processor's file says; the family's statistics where it says nothing."""
    patch = _pair(config.patch_size)
    size = processor.get("size")
    if processor.get("do_center_crop"):
        size = processor.get("crop_size", size)
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    sides = _pair(size or config.image_size)
    # SigLIP so400m (384 pixels, patch 14) never sees the last pixels of its native size.
    height, width = (max(p, side // p * p) for side, p in zip(sides, patch, strict=True))
    normalises = processor.get("do_normalize", True)
    return PixelConfig(
        resolution=(height, width),
        mean=tuple(processor.get("image_mean") or family.mean) if normalises else (0.0, 0.0, 0.0),
        std=tuple(processor.get("image_std") or family.std) if normalises else (1.0, 1.0, 1.0),
        interpolation=_INTERPOLATIONS.get(processor.get("resample", -1), family.interpolation),
    )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Loading prints a report and a progress bar; users see our own sentence."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
