"""How files are transcoded: the settings of `stadapter prepare`."""

from dataclasses import dataclass

PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)


@dataclass(frozen=True)
class PrepareConfig:
    """How files are transcoded. Equal settings give equal files."""

    short_side: int = 256
    """Shorter side of the output in pixels, even; smaller videos keep their size."""
    keyframe_interval: int = 8
    """Frames from one key frame to the next: at most so many are decoded to show one."""
    fps: float | None = None
    """Constant frames per second; None keeps every frame and its time."""
    crf: int = 23
    """x264's quality, 1 (finest) to 51 (coarsest)."""
    preset: str = "fast"
    """x264's effort, ultrafast to veryslow."""
    min_share: float = 0.5
    """A damaged clip is kept if this share of it, 0 to 1, comes before the damage."""

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise ValueError(f"short_side ({self.short_side}) must be even and at least 16")
        if self.keyframe_interval < 1:
            raise ValueError(f"keyframe_interval ({self.keyframe_interval}) must be at least 1")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps ({self.fps}) must be above 0 and at most 1000")
        if not 1 <= self.crf <= 51:
            raise ValueError(f"crf ({self.crf}) must be from 1 to 51")
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} must be one of {', '.join(PRESETS)}")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share ({self.min_share}) must be from 0 to 1")
