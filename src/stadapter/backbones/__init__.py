"""Frozen image transformers, all seen through one interface: `Backbone`."""

import difflib
from collections.abc import Callable
from pathlib import Path

from stadapter.backbones.base import (
    NO_OVERRIDES,
    Backbone,
    Block,
    PixelConfig,
    TokenShape,
    frame_mean,
)
from stadapter.backbones.openai_clip import OpenAIClip, load_openai_clip
from stadapter.backbones.timm import is_supported, load_timm
from stadapter.backbones.tiny import load_tiny
from stadapter.backbones.transformers import load_transformers


def _load_tiny(name: str, *, weights: Path | None, pretrained: bool) -> Backbone:
    return load_tiny(weights=weights, pretrained=pretrained)


def _load_openai_clip(name: str, *, weights: Path | None, pretrained: bool) -> Backbone:
    return load_openai_clip(weights)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "tiny": _load_tiny,
    "openai_clip": _load_openai_clip,
    "timm": load_timm,
    "transformers": load_transformers,
}
"""Library (what stands before the first "/" of a backbone's id) -> its loader."""


def create_backbone(
    id: str, *, weights: str | Path | None = None, pretrained: bool = True
) -> Backbone:
    """Make a backbone by its id: "tiny", "openai_clip", "timm/NAME" or "transformers/ORG/NAME".

    Args:
        id: library and name, as saved in adapter files; a name of transformers may be a folder.
        weights: local file with pretrained weights; otherwise the package's or the Hub's.
            "openai_clip" needs one.
        pretrained: False gives random weights, the same ones each time.

    Raises:
        ValueError: unknown id (near matches are named), or weights of another model.
        TypeError: a model whose blocks have no view.
        ImportError: a library that is an extra and not installed.
        FileNotFoundError: `weights` does not exist.
    """
    library, _, name = id.partition("/")
    loader = BACKBONES.get(library)
    needs_name = library not in ("tiny", "openai_clip")
    if loader is None or bool(name) != needs_name:
        raise ValueError(_unknown(id))
    backbone = loader(name, weights=Path(weights) if weights else None, pretrained=pretrained)
    backbone.weights_file = str(Path(weights).absolute()) if weights else None
    backbone.pretrained = pretrained or weights is not None
    return backbone


def _unknown(id: str) -> str:
    from stadapter._torchvision import ensure_torchvision

    ensure_torchvision()
    import timm

    known = ["tiny", "openai_clip"]
    known += [f"timm/{name}" for name in timm.list_models() if is_supported(name)]
    near = difflib.get_close_matches(id, known, n=3) or difflib.get_close_matches(
        f"timm/{id.rpartition('/')[2]}", known, n=3
    )
    if id.count("/") == 1 and id.partition("/")[0] not in BACKBONES:  # as the Hub names models
        near = [f"transformers/{id}", *near]
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else "allowed are 'tiny', 'openai_clip', 'timm/NAME', 'transformers/ORG/NAME'"
    )
    return f"unknown backbone {id!r}; {hint}"


__all__ = [
    "BACKBONES",
    "NO_OVERRIDES",
    "Backbone",
    "Block",
    "OpenAIClip",
    "PixelConfig",
    "TokenShape",
    "create_backbone",
    "frame_mean",
]
