"""What is drawn of a clip, and how large."""

from dataclasses import dataclass
from typing import Literal

from stadapter.visualize.maps import MAP_KINDS, MapKind

MAX_SIZE = 1024
"""Most pixels of a drawn frame's height."""


@dataclass(frozen=True)
class VisualizeConfig:
    """Settings of a picture. HTML has all blocks and heads, and opens with the chosen block."""

    map: MapKind | None = None
    """What is drawn: class_token, attention_pooling (attention to patches of what the feature is
    read from), received (attention to each patch, averaged over patches), patch_norm (how much a
    block changes each patch). Default: what the backbone reads its feature from, else
    patch_norm."""
    block: int | None = None
    """Block, 1 to the backbone's depth; default: the last."""
    head: int | Literal["mean", "all"] = "mean"
    """Head, from 1 on; mean of all; or all, one below the other."""
    rollout: bool = False
    """Attention followed through all blocks up to the chosen one (arXiv 2005.00928)."""
    view: int = 1
    """Which of the temporal views, from 1 on."""
    num_temporal_views: int = 1
    """Choices of frames, spread over the video."""
    size: int = 144
    """Height of a drawn frame in pixels."""
    fps: float = 2.0
    """Frames per second of GIF and MP4."""

    def __post_init__(self) -> None:
        if self.map is not None and self.map not in MAP_KINDS:
            raise ValueError(f"map {self.map!r} must be one of {', '.join(MAP_KINDS)}")
        if isinstance(self.head, str) and self.head not in ("mean", "all"):
            raise ValueError(f"head {self.head!r} must be a number from 1 on, mean or all")
        if self.rollout and self.head != "mean":
            raise ValueError(f"rollout averages the heads, so it cannot go with head {self.head}")
        if self.rollout and self.map == "patch_norm":
            raise ValueError("rollout follows attention; norms of patches (patch_norm) have none")
        if not 1 <= self.view <= self.num_temporal_views:
            raise ValueError(
                f"view {self.view} is out of range: num_temporal_views "
                f"({self.num_temporal_views}) gives views 1 to {max(1, self.num_temporal_views)}"
            )
        if not 16 <= self.size <= MAX_SIZE:
            raise ValueError(f"size ({self.size}) must be from 16 to {MAX_SIZE} pixels")
        if not 0.1 <= self.fps <= 50:
            raise ValueError(f"fps ({self.fps}) must be from 0.1 to 50")
