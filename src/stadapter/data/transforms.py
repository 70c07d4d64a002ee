"""Frames to pixels: uint8 (T, C, h, w) from the decoder to uint8 (V, T, C, H, W) for the model.

Resizing and cropping happen on uint8, and batches stay uint8 until `normalize` runs on the model's
device: a quarter of the bytes between processes. `Preprocessing` is what testing, `predict` and the
validation in training all use; it is saved with the adapters. All frames of a clip get the same
random crop.

Letters: V views, T frames, C channels, H W pixels of the model's input, h w pixels of the file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from stadapter._torchvision import ensure_torchvision


@dataclass(frozen=True)
class Preprocessing:
    """How frames become the pixels a backbone expects."""

    resolution: tuple[int, int]
    """Height and width of the model's input, in pixels."""
    mean: tuple[float, float, float]
    """Per-channel mean that is subtracted, for pixels in [0, 1]."""
    std: tuple[float, float, float]
    """Per-channel standard deviation to divide by, for pixels in [0, 1]."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How frames are resized."""

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`.

        Raises:
            ValueError: an entry is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if set(settings) != names:
            raise ValueError(f"preprocessing has {sorted(settings)}, needs {sorted(names)}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def views(self, frames: Tensor, num_spatial_views: int = 1) -> Tensor:
        """Test views of one clip: the centre crop, or three crops along the longer side.

        The frame is resized so that it just covers the resolution, then cropped.

        Args:
            frames: uint8 (T, C, h, w)
            num_spatial_views: 1 or 3

        Returns:
            uint8 (V, T, C, H, W)
        """
        if num_spatial_views not in (1, 3):
            raise ValueError(f"num_spatial_views ({num_spatial_views}) must be 1 or 3")
        H, W = self.resolution
        h, w = _covering_size((frames.shape[-2], frames.shape[-1]), self.resolution)
        frames = resize(frames, (h, w), self.interpolation)
        fractions = (0.5,) if num_spatial_views == 1 else (0.0, 0.5, 1.0)
        crops = []
        for fraction in fractions:
            top, left = int((h - H) * fraction), int((w - W) * fraction)
            crops.append(frames[..., top : top + H, left : left + W])
        return torch.stack(crops).contiguous()

    def normalize(self, video: Tensor) -> Tensor:
        """uint8 (..., C, H, W) -> float32 of zero mean and unit variance, on the same device."""
        mean = torch.tensor(self.mean, device=video.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=video.device).view(-1, 1, 1)
        return (video.float() / 255 - mean) / std


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training clips; every frame of a clip gets the same ones."""

    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest area of the random crop, as a fraction of the frame."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    """Narrowest and widest aspect ratio of the crop, relative to that of the resolution."""
    flip: Literal["off", "on", "auto"] | bool = "off"
    """Mirror half of the clips left to right. "on" keeps their labels, which breaks classes that
    name a side; "auto" swaps labels such as "push left" and "push right", and leaves clips alone
    whose class names a side without a counterpart."""
    rand_augment: int = 0
    """Number of RandAugment operations per clip (4 in the published SSv2 recipe); 0 for none."""
    rand_augment_magnitude: int = 7
    """Strength of RandAugment, 0 to 30 (21 is what timm writes as m7, which is of 10)."""
    rand_augment_probability: float = 1.0
    """Chance of each of these operations to be applied (0.5 in the published SSv2 recipe)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))
        object.__setattr__(self, "crop_ratio", tuple(self.crop_ratio))
        if isinstance(self.flip, bool):  # as YAML reads a bare on or off
            object.__setattr__(self, "flip", "on" if self.flip else "off")
        if self.flip not in ("off", "on", "auto"):
            raise ValueError(f"flip {self.flip!r} must be off, on or auto")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must be 0 < smallest <= largest <= 1")
        narrow, wide = self.crop_ratio
        if not 0 < narrow <= wide:
            raise ValueError(f"crop_ratio {self.crop_ratio} must be 0 < narrowest <= widest")
        if self.rand_augment < 0 or not 0 <= self.rand_augment_magnitude <= 30:
            raise ValueError("rand_augment must be at least 0 and its magnitude 0 to 30")
        if not 0 < self.rand_augment_probability <= 1:
            raise ValueError(
                f"rand_augment_probability ({self.rand_augment_probability}) must be above 0 and "
                "at most 1"
            )

    def apply(self, frames: Tensor, preprocessing: Preprocessing) -> Tensor:
        """One random training clip, from torch's global random state; not yet flipped, since that
        concerns the label too (`mirror.py`).

        Args:
            frames: uint8 (T, C, h, w)
            preprocessing: gives resolution and interpolation.

        Returns:
            uint8 (T, C, H, W)
        """
        ensure_torchvision()
        from torchvision.transforms import v2

        H, W = preprocessing.resolution
        ratio = (self.crop_ratio[0] * W / H, self.crop_ratio[1] * W / H)
        top, left, h, w = v2.RandomResizedCrop.get_params(
            frames, scale=list(self.crop_scale), ratio=list(ratio)
        )
        # Of a frame a few pixels small, a crop may round to nothing.
        frames = frames[..., top : top + max(1, h), left : left + max(1, w)]
        frames = resize(frames, (H, W), preprocessing.interpolation).contiguous()
        if self.rand_augment:
            operation = v2.RandAugment(1, self.rand_augment_magnitude)
            chance = self.rand_augment_probability
            for _ in range(self.rand_augment):
                if chance == 1 or torch.rand(()) < chance:
                    frames = operation(frames)
        return frames


def resize(frames: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Antialiased resize of uint8 (..., C, h, w) to `size` (height, width)."""
    if frames.shape[-2:] == size:
        return frames
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    mode = InterpolationMode(interpolation)
    resized: Tensor = functional.resize(frames, list(size), interpolation=mode, antialias=True)
    return resized


def _covering_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Smallest size of the same aspect ratio as `size` that covers `target` (heights, widths)."""
    (h, w), (H, W) = size, target
    if h * W < w * H:  # wider than needed: the height decides
        return H, max(W, w * H // h)
    return max(H, h * W // w), W
