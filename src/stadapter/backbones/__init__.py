"""Frozen image transformers, all seen through one interface: `Backbone`."""

import difflib
from collections.abc import Callable
from pathlib import Path

from stadapter.backbones.base import Backbone, Block, PixelConfig, TokenShape, frame_mean
from stadapter.backbones.timm import load_timm
from stadapter.backbones.tiny import load_tiny


def _load_tiny(name: str, *, weights: Path | None, pretrained: bool) -> Backbone:
    return load_tiny(weights=weights, pretrained=pretrained)


BACKBONES: dict[str, Callable[..., Backbone]] = {"tiny": _load_tiny, "timm": load_timm}
"""Library (what stands before the first "/" of a backbone's id) -> its loader."""


def create_backbone(
    id: str, *, weights: str | Path | None = None, pretrained: bool = True
) -> Backbone:
    """Make a backbone by its id: "tiny" or "timm/NAME".

    Args:
        id: library and name, as saved in adapter files.
        weights: local file with pretrained weights; otherwise the package's or the Hub's.
        pretrained: False gives random weights, the same ones each time.

    Raises:
        ValueError: unknown id (near matches are named), or weights of another model.
        FileNotFoundError: `weights` does not exist.
    """
    library, _, name = id.partition("/")
    loader = BACKBONES.get(library)
    needs_name = library != "tiny"
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

    known = ["tiny"] + [f"timm/{name}" for name in timm.list_models()]
    near = difflib.get_close_matches(id, known, n=3) or difflib.get_close_matches(
        f"timm/{id.rpartition('/')[2]}", known, n=3
    )
    hint = f"did you mean {' or '.join(near)}?" if near else "allowed are 'tiny' and 'timm/NAME'"
    return f"unknown backbone {id!r}; {hint}"


__all__ = [
    "BACKBONES",
    "Backbone",
    "Block",
    "PixelConfig",
    "TokenShape",
    "create_backbone",
    "frame_mean",
]
