"""Families of shapes and textures from which `still_images` composes its pictures.

A shape is a *radial profile*, a table of the outline's distance from the centre for 256 angles
(plus an optional round hole), or a polyline with a width ("strokes"). A texture is a function of
two coordinates in periods, and of a 1/f noise field. The last six of each table are never used in
pretraining; the quality table is measured on them.

Letters: n layers (objects or grounds), S pixels per side, V corners.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

NUM_ANGLES = 256
TAU = 2 * math.pi
PHI = torch.arange(NUM_ANGLES) * (TAU / NUM_ANGLES)

# --------------------------------------------------------------------------- shapes


def _outline(corners: Tensor) -> Tensor:
    """Radial profile of polygons that are star-shaped about the origin: (n, V, 2) to (n, 256)."""
    start, edge = corners, corners.roll(-1, 1) - corners
    ray = torch.stack([PHI.cos(), PHI.sin()], -1)  # (256, 2)
    # The ray t*ray meets start + s*edge where both cross products agree (Cramer's rule).
    denominator = ray[:, None, 0] * edge[:, None, :, 1] - ray[:, None, 1] * edge[:, None, :, 0]
    denominator = torch.where(denominator.abs() < 1e-6, 1e-6, denominator)  # (n, 256, V)
    t = (start[..., 0] * edge[..., 1] - start[..., 1] * edge[..., 0])[:, None] / denominator
    s = start[:, None, :, 0] * ray[:, None, 1] - start[:, None, :, 1] * ray[:, None, 0]
    s = s / denominator
    hit = (s > -1e-3) & (s < 1 + 1e-3) & (t > 0)
    return torch.where(hit, t, 9.0).amin(-1).clamp(max=1.6)


def polar(angles: Tensor, radii: Tensor) -> Tensor:
    """Points (..., 2) at these angles and distances."""
    return torch.stack([radii * angles.cos(), radii * angles.sin()], -1)


def _regular(n: int, num_corners: int, inner: Tensor | None = None) -> Tensor:
    """Regular polygon, or a star when `inner` (n,) gives the radius of its notches."""
    count = num_corners if inner is None else 2 * num_corners
    radii = torch.ones(n, count)
    if inner is not None:
        radii[:, 1::2] = inner[:, None]
    return _outline(polar((torch.arange(count) * (TAU / count)).expand(n, -1), radii))


def _corners(n: int, points: Sequence[tuple[float, float]]) -> Tensor:
    return _outline(torch.tensor(points).expand(n, -1, -1))


def _random_polygon(n: int, a: Tensor, g: Generator) -> Tensor:
    angles = (torch.arange(7) + 0.7 * torch.rand(n, 7, generator=g)) * (TAU / 7)
    return _outline(polar(angles, 0.45 + 0.75 * torch.rand(n, 7, generator=g)))


def _blob(n: int, a: Tensor, g: Generator) -> Tensor:
    order = torch.arange(2, 7)
    size = torch.randn(n, 5, 1, generator=g) * (0.35 / order[:, None])
    phase = TAU * torch.rand(n, 5, 1, generator=g)
    return (0.85 + (size * (order[:, None] * PHI + phase).cos()).sum(1)).clamp(0.25, 1.5)


def _cross(n: int, a: Tensor, g: Generator) -> Tensor:
    half = 0.2 + 0.2 * a[:, None]
    bar = torch.minimum(1 / PHI.cos().abs(), half / PHI.sin().abs())
    return torch.maximum(bar, torch.minimum(1 / PHI.sin().abs(), half / PHI.cos().abs()))


def _wedge(n: int, a: Tensor, g: Generator) -> Tensor:
    away = torch.minimum(PHI, TAU - PHI)
    return torch.where(away < 0.3 + 0.8 * a[:, None], 0.06, 1.0)


def _heart(n: int, a: Tensor, g: Generator) -> Tensor:
    away = torch.minimum(PHI, TAU - PHI)  # the notch lies at angle 0, the tip opposite
    lobes = 0.35 + 0.75 * (away / 1.1).clamp(max=1).sin()
    return (lobes + 0.4 * (away / math.pi) ** 6).expand(n, -1)


def _flower(n: int, a: Tensor, g: Generator) -> Tensor:
    return 0.75 + (0.15 + 0.15 * a[:, None]) * (5 * PHI).cos()


def _drop(n: int, a: Tensor, g: Generator) -> Tensor:
    away = torch.minimum(PHI, TAU - PHI)
    return (0.6 + 0.6 * torch.exp(-away / (0.25 + 0.2 * a[:, None]))).expand(n, -1)


def _gear(n: int, a: Tensor, g: Generator) -> Tensor:
    return 0.85 + 0.17 * torch.tanh(6 * (8 * PHI).sin()).expand(n, -1)


ARROW = (
    (1.0, 0.0),
    (0.05, 0.85),
    (0.05, 0.3),
    (-0.9, 0.3),
    (-0.9, -0.3),
    (0.05, -0.3),
    (0.05, -0.85),
)
HALF_DISC = tuple(
    (math.sin(i * math.pi / 12) * 1.1 - 0.35, -math.cos(i * math.pi / 12) * 1.1) for i in range(13)
)

Profile = Callable[[int, Tensor, Generator], Tensor]
# name -> (profile, order of rotational symmetry; 0 where a direction has no meaning)
SHAPES: dict[str, tuple[Profile, int]] = {
    "ellipse": (lambda n, a, g: torch.ones(n, NUM_ANGLES), 0),
    "triangle": (lambda n, a, g: _regular(n, 3), 3),
    "box": (lambda n, a, g: _regular(n, 4), 4),
    "hexagon": (lambda n, a, g: _regular(n, 6), 6),
    "star": (lambda n, a, g: _regular(n, 5, 0.35 + 0.2 * a), 5),
    "cross": (_cross, 4),
    "wedge": (_wedge, 1),
    "heart": (_heart, 1),
    "flower": (_flower, 5),
    "blob": (_blob, 0),
    "polygon": (_random_polygon, 0),
    "ring": (lambda n, a, g: torch.ones(n, NUM_ANGLES), 0),
    "crescent": (lambda n, a, g: torch.ones(n, NUM_ANGLES), 1),
    "strokes": (lambda n, a, g: torch.ones(n, NUM_ANGLES), 0),
    "pentagon": (lambda n, a, g: _regular(n, 5), 5),
    "spark": (lambda n, a, g: _regular(n, 4, 0.2 + 0.15 * a), 4),
    "gear": (_gear, 0),
    "drop": (_drop, 1),
    "arrow": (lambda n, a, g: _corners(n, ARROW), 1),
    "half_disc": (lambda n, a, g: _corners(n, HALF_DISC), 1),
}
SHAPE_NAMES = tuple(SHAPES)
SYMMETRY = torch.tensor([order for _, order in SHAPES.values()])
NUM_TRAIN_SHAPES = len(SHAPES) - 6

# --------------------------------------------------------------------------- textures


def hard(field: Tensor, sharpness: float = 3.0) -> Tensor:
    """Steep but not aliased step at 0: a field about zero becomes one in [0, 1]."""
    return (0.5 + sharpness * field).clamp(0, 1)


def _wave(field: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.sin(TAU * field)


def _cell(field: Tensor) -> Tensor:
    """Position inside the unit cell, -0.5 .. 0.5."""
    return field - field.floor() - 0.5


def _bricks(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    shifted = u / 2 + 0.5 * (v.floor() % 2)
    return hard(torch.minimum(2 * (0.44 - _cell(shifted).abs()), 0.38 - _cell(v).abs()), 6)


def _scales(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    shifted = _cell(u + 0.5 * (v.floor() % 2))
    return _wave(1.5 * torch.hypot(shifted, _cell(v) + 0.5))


Texture = Callable[[Tensor, Tensor, Tensor], Tensor]
# name -> field in [0, 1] of (u, v) in periods about the layer's centre, and noise w of spread 1
TEXTURES: dict[str, Texture] = {
    "flat": lambda u, v, w: torch.zeros_like(u),
    "gradient": lambda u, v, w: _wave(0.12 * u),
    "stripes": lambda u, v, w: _wave(u),
    "bars": lambda u, v, w: hard(torch.sin(TAU * u)),
    "checker": lambda u, v, w: hard(torch.sin(math.pi * u) * torch.sin(math.pi * v), 4),
    "dots": lambda u, v, w: hard(0.3 - torch.hypot(_cell(u), _cell(v)), 6),
    "rings": lambda u, v, w: _wave(torch.hypot(u, v)),
    "plaid": lambda u, v, w: 0.5 * (_wave(u) + _wave(v)),
    "noise": lambda u, v, w: (0.5 + 0.25 * w).clamp(0, 1),
    "marble": lambda u, v, w: _wave(0.7 * u + 0.3 * w),
    "spots": lambda u, v, w: hard(w, 2),
    "speckle": lambda u, v, w: u,  # `StillImages` fills it from its generator
    "cells": lambda u, v, w: u,  # `StillImages` fills it with `voronoi`
    "waves": lambda u, v, w: hard(torch.sin(TAU * (u + 0.25 * torch.sin(math.pi * v)))),
    "zigzag": lambda u, v, w: hard(torch.sin(TAU * (u + 2 * _cell(v / 2).abs()))),
    "bricks": _bricks,
    "spiral": lambda u, v, w: hard(torch.sin(TAU * torch.hypot(u, v) + 3 * torch.atan2(v, u))),
    "scales": _scales,
    "grid": lambda u, v, w: hard(torch.maximum(_cell(u).abs(), _cell(v).abs()) - 0.4, 8),
    "wood": lambda u, v, w: _wave(torch.hypot(u, 0.2 * v) + 0.35 * w),
}
TEXTURE_NAMES = tuple(TEXTURES)
NUM_TRAIN_TEXTURES = len(TEXTURES) - 6
NEEDS_NOISE = frozenset({"noise", "marble", "spots", "wood"})
# Textures with one orientation and one period that can be read off the picture.
ORIENTED = torch.tensor(
    [name in {"stripes", "bars", "waves", "marble", "zigzag"} for name in TEXTURE_NAMES]
)


def uniform(g: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers drawn evenly from low .. high."""
    return low + (high - low) * torch.rand(*shape, generator=g)


def pink_noise(n: int, size: int, g: Generator) -> Tensor:
    """1/f^p noise as in photographs, p drawn from 0.8 .. 2.2 and stretched: (n, S, S), spread 1."""
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    angle, stretch = uniform(g, 0, math.pi, n, 1, 1), uniform(g, -1, 1, n, 1, 1).exp2()
    along, across = angle.cos() * fx + angle.sin() * fy, angle.cos() * fy - angle.sin() * fx
    frequency = torch.hypot(along * stretch, across / stretch).clamp(min=1 / size)
    spectrum = torch.fft.rfft2(torch.randn(n, size, size, generator=g))
    field = torch.fft.irfft2(spectrum * frequency ** -uniform(g, 0.8, 2.2, n, 1, 1), s=(size, size))
    return (field - field.mean((1, 2), True)) / field.std((1, 2), keepdim=True)


def voronoi(x: Tensor, y: Tensor, g: Generator) -> Tensor:
    """Cells about 14 random points, one value each, darker at the borders."""
    n, low, high = len(x), 0.0, float(x.shape[-1])
    px, py = uniform(g, low, high, n, 14, 1, 1), uniform(g, low, high, n, 14, 1, 1)
    distance = torch.hypot(x[:, None] - px, y[:, None] - py)
    near = distance.topk(2, 1, largest=False)
    value = torch.rand(n, 14, generator=g).gather(1, near.indices[:, 0].flatten(1)).view_as(x)
    return value * hard(near.values[:, 1] - near.values[:, 0] - 1.0, 0.5)
