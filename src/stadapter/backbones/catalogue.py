"""Which backbones there are, by id, and how large they are; nothing is downloaded or allocated.

Sizes are measured on torch's meta device, where a model has shapes but no memory. That takes a
moment per architecture, so a listing measures only up to `MEASURED` of them and says None for the
sizes of a longer one; a narrower pattern fills them in.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.base import Backbone
from stadapter.backbones.timm import creation_options, is_supported, view_timm
from stadapter.backbones.tiny import PIXELS, load_tiny

MEASURED = 40
"""Most architectures that one listing measures."""


@dataclass(frozen=True)
class BackboneEntry:
    """One backbone that `create_backbone` can make."""

    id: str
    """Such as "timm/vit_base_patch16_clip_224.openai"."""
    width: int | None
    """D of the pooled features; None if not measured."""
    depth: int | None
    """Number of blocks; None if not measured."""
    patch: tuple[int, int] | None
    """Height and width of a patch in pixels; None if not measured."""
    parameters: int | None
    """Number of weights without a classifier; None if not measured."""
    pretraining: str | None
    """timm's tag of the pretrained weights, such as "openai"; None if there are none."""
    resolution: tuple[int, int] | None
    """Native height and width in pixels; None if not known."""


class _Size(NamedTuple):
    width: int
    depth: int
    patch: tuple[int, int]
    parameters: int


def list_backbones(pattern: str = "") -> list[BackboneEntry]:
    """Backbones whose id contains `pattern`, or matches it where it has `*`, `?` or `[`.

    Every architecture of timm with a view is listed, once for each set of pretrained weights.
    Models of the transformers library cannot be listed: their names live on the Hub (see
    docs/backbones.md).

    Raises:
        ValueError: nothing matches; the message names the nearest ids.
    """
    ids = _all_ids()
    wanted = pattern.lower()
    if any(sign in wanted for sign in "*?["):
        found = [id for id in ids if fnmatchcase(id.lower(), wanted)]
    else:
        found = [id for id in ids if wanted in id.lower()]
    if not found:
        near = difflib.get_close_matches(wanted, ids, n=3, cutoff=0.3)
        hint = f"did you mean {' or '.join(near)}?" if near else "an empty pattern lists all"
        raise ValueError(f"no backbone matches {pattern!r}; {hint}")
    measure = len({_architecture(id) for id in found}) <= MEASURED
    return [_entry(id, measure=measure) for id in found]


def _all_ids() -> list[str]:
    ensure_torchvision()
    import timm

    ids = ["tiny"]
    for architecture in timm.list_models():
        if is_supported(architecture):
            tags = timm.list_pretrained(f"{architecture}.*") or [architecture]
            ids += [f"timm/{name}" for name in tags]
    return ids


def _architecture(id: str) -> str:
    return id.removeprefix("timm/").split(".")[0]


def _entry(id: str, *, measure: bool) -> BackboneEntry:
    size = _measure(_architecture(id)) if measure else None
    pretraining, resolution = _pretrained(id.removeprefix("timm/"))
    return BackboneEntry(
        id=id,
        width=size.width if size else None,
        depth=size.depth if size else None,
        patch=size.patch if size else None,
        parameters=size.parameters if size else None,
        pretraining=pretraining,
        resolution=resolution,
    )


def _pretrained(name: str) -> tuple[str | None, tuple[int, int] | None]:
    if name == "tiny":
        return "generated images", PIXELS.resolution
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    if config is None:
        return None, None
    tag = name.partition(".")[2] or None
    height, width = config.input_size[1:]
    return tag, (height, width)


@cache
def _measure(architecture: str) -> _Size:
    with torch.device("meta"), _NoFilling():
        backbone = _build(architecture)
    parameters = sum(p.numel() for p in backbone.parameters())
    return _Size(backbone.width, len(backbone.blocks), backbone.patch_size, parameters)


def _build(architecture: str) -> Backbone:
    if architecture == "tiny":
        return load_tiny(pretrained=False)
    import timm

    model = timm.create_model(architecture, **creation_options(architecture))
    return view_timm(model, id=f"timm/{architecture}")


class _NoFilling(TorchFunctionMode):
    """Skip in-place arithmetic (`normal_`, `mul_`): without memory it is all cost and no effect."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")  # as torch.nn.init calls it
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place and target is not None:
            return target
        return func(*args, **kwargs)
