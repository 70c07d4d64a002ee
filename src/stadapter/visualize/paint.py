"""Maps as colours over frames. Pictures only; no words, no models."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stadapter.visualize.maps import relative

Pixels = NDArray[np.uint8]

DIM = 0.55
"""Brightness of the grey frame below a map."""
_HEAT = np.array(
    [(255, 120, 0, 0), (255, 96, 20, 140), (255, 170, 40, 205), (255, 246, 160, 235)], np.uint8
)
_HEAT_PLACES = np.array([0.0, 0.35, 0.7, 1.0])
_LESS, _MORE = (64, 156, 255), (255, 122, 26)


def _heat_palette() -> Pixels:
    """RGBA (256, 4) from nothing over orange to pale yellow."""
    steps = np.linspace(0, 1, 256)
    columns = [np.interp(steps, _HEAT_PLACES, column) for column in _HEAT.T]
    return np.asarray(np.stack(columns, axis=1).round(), dtype=np.uint8)


def _change_palette() -> Pixels:
    """RGBA (256, 4): blue is less, 128 nothing, orange more."""
    steps = (np.arange(256) - 128) / 127
    alpha = np.clip(np.abs(steps), 0, 1) ** 0.8 * 235
    colours = np.where(steps[:, None] < 0, np.array(_LESS), np.array(_MORE))
    return np.asarray(np.concatenate([colours, alpha[:, None].round()], axis=1), dtype=np.uint8)


HEAT = _heat_palette()
CHANGE = _change_palette()


@dataclass(frozen=True)
class Layer:
    """Frozen and adapted maps of one head (or their mean) on one scale, as palette numbers."""

    frozen: Pixels
    """(T, H, W), of `HEAT`."""
    adapted: Pixels
    """(T, H, W), of `HEAT`."""
    change: Pixels
    """(T, H, W), of `CHANGE`: adapted less frozen."""
    top: float
    """Multiple of the even share that has the last colour of `HEAT`; larger ones have it, too. The
    first colour, which is none, is the even share."""
    most_change: float
    """Difference of multiples at both ends of `CHANGE`."""

    def rows(self) -> list[tuple[Pixels, Pixels]]:
        """(numbers, palette) of frozen, adapted, change."""
        return [(self.frozen, HEAT), (self.adapted, HEAT), (self.change, CHANGE)]


def make_layer(frozen: Tensor, adapted: Tensor) -> Layer:
    """Both maps (T, H, W) in multiples of the even share, 1 in 200 patches beyond the scale."""
    before, after = relative(frozen), relative(adapted)
    top = max(1.2, _high(torch.stack([before, after])))
    difference = after - before
    most = max(0.2, _high(difference.abs()))
    return Layer(
        _numbers((before - 1) / (top - 1) * 255),
        _numbers((after - 1) / (top - 1) * 255),
        _numbers(128 + difference / most * 127),
        top,
        most,
    )


def _high(values: Tensor) -> float:
    """The 99.5th percentile. (torch.quantile has a limit of 16 million values.)"""
    return float(np.quantile(values.numpy(), 0.995))


def _numbers(values: Tensor) -> Pixels:
    numbers: Pixels = values.round().clamp(0, 255).to(torch.uint8).numpy()
    return numbers


def colour_frames(frames: Tensor, height: int) -> list[Image.Image]:
    """uint8 (T, C, H, W) as pictures of the given height."""
    pictures = [Image.fromarray(f.permute(1, 2, 0).contiguous().numpy()) for f in frames]
    width = max(1, round(height * frames.shape[3] / frames.shape[2]))
    return [picture.resize((width, height), Image.Resampling.BICUBIC) for picture in pictures]


def dimmed(picture: Image.Image) -> Image.Image:
    """Grey and darker, so that colours on it mean the map."""
    return picture.convert("L").point(lambda value: round(DIM * value)).convert("RGB")


def overlaid(picture: Image.Image, numbers: Pixels, palette: Pixels) -> Image.Image:
    """A dimmed frame with one map (H, W) over it, each patch a rectangle of one colour."""
    patches = Image.fromarray(palette[numbers])
    colours = patches.resize(picture.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(dimmed(picture).convert("RGBA"), colours).convert("RGB")
