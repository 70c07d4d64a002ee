"""What an order-only scene may show: shapes, gates, textures and colours, apart for each split.

A shape is a signed-distance function (negative inside, within the unit disc, y pointing down), so
that a scene can smooth its edges over one pixel at any size and angle. No shape has a rotational
symmetry: every angle of it looks different. Textures have period one and soft edges.

`LOOKS` is the table which scenes draw from. Nothing in the training look occurs in the validation
look: not a shape, gate, seam, texture, colour or background. A model must therefore carry the
motion over to things which it has never seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
"""Floats; float32 in practice, which numpy's stubs lose track of."""
Field: TypeAlias = Callable[[Array, Array], Array]
"""A function of the plane: signed distance for a shape, 0..1 for a texture."""

SplitName: TypeAlias = Literal["train", "val"]


# -- shapes: signed distance in units of the thing's radius, y points down ------------------------


def _length(x: Array, y: Array) -> Array:
    length: Array = np.hypot(x, y)
    return length


def _both(a: Array, b: Array) -> Array:
    """The union of two shapes."""
    union: Array = np.minimum(a, b)
    return union


def _without(a: Array, b: Array) -> Array:
    """Shape `a` with `b` cut out."""
    rest: Array = np.maximum(a, -b)
    return rest


def _disc(x: Array, y: Array, centre: tuple[float, float], radius: float) -> Array:
    return _length(x - centre[0], y - centre[1]) - radius


def _box(x: Array, y: Array, centre: tuple[float, float], half: tuple[float, float]) -> Array:
    dx, dy = np.abs(x - centre[0]) - half[0], np.abs(y - centre[1]) - half[1]
    outside = _length(np.maximum(dx, 0), np.maximum(dy, 0))
    inside: Array = np.minimum(np.maximum(dx, dy), 0)
    return outside + inside


def _polygon(x: Array, y: Array, *corners: tuple[float, float]) -> Array:
    nearest: Array | None = None
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        squared = (wx - ex * along) ** 2 + (wy - ey * along) ** 2
        nearest = squared if nearest is None else np.minimum(nearest, squared)
        if ey:  # Even-odd rule: a ray to the right flips inside and outside at each edge.
            inside ^= ((wy >= 0) != (y >= by)) & (wx < wy * (ex / ey))
    assert nearest is not None
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def _arrow(x: Array, y: Array) -> Array:
    head, shaft = ((0.1, -0.72), (1.0, 0.0), (0.1, 0.72)), 0.3
    return _polygon(x, y, (-0.95, -shaft), (0.1, -shaft), *head, (0.1, shaft), (-0.95, shaft))


def _ell(x: Array, y: Array) -> Array:
    stem = _box(x, y, (-0.38, 0.0), (0.3, 0.92))
    return _both(stem, _box(x, y, (0.1, 0.62), (0.72, 0.3)))


def _flag(x: Array, y: Array) -> Array:
    pole = _box(x, y, (-0.6, 0.0), (0.17, 0.95))
    return _both(pole, _polygon(x, y, (-0.5, -0.92), (0.95, -0.35), (-0.5, 0.25)))


def _drop(x: Array, y: Array) -> Array:
    tip = _polygon(x, y, (-0.55, -0.48), (0.98, 0.0), (-0.55, 0.48))
    return _both(_disc(x, y, (-0.32, 0.0), 0.6), tip)


def _mouth(x: Array, y: Array) -> Array:
    bite = _polygon(x, y, (-0.1, 0.0), (1.3, -0.85), (1.3, 0.85))
    return _without(_disc(x, y, (0.0, 0.0), 0.92), bite)


def _mug(x: Array, y: Array) -> Array:
    ring = np.abs(_disc(x, y, (0.4, 0.0), 0.42)) - 0.16
    return _both(_box(x, y, (-0.2, 0.0), (0.58, 0.72)), ring)


def _fish(x: Array, y: Array) -> Array:
    body = (_length(x - 0.25, y * 1.45) - 0.72) / 1.2
    return _both(body, _polygon(x, y, (0.0, 0.0), (-0.98, -0.7), (-0.8, 0.0), (-0.98, 0.7)))


def _hammer(x: Array, y: Array) -> Array:
    head = _polygon(x, y, (-0.5, -0.9), (0.45, -0.9), (0.9, -0.32), (-0.5, -0.32))
    return _both(_box(x, y, (-0.05, 0.25), (0.22, 0.7)), head)


# -- gates: outlines of openings, and the line along which the two halves meet ---------------------


def _square_gate(x: Array, y: Array) -> Array:
    return _box(x, y, (0.0, 0.0), (0.86, 0.86))


def _round_gate(x: Array, y: Array) -> Array:
    return _disc(x, y, (0.0, 0.0), 0.96)


def _hexagon_gate(x: Array, y: Array) -> Array:
    slanted, upright = np.abs(y) * 0.866 + np.abs(x) * 0.5, np.abs(x)
    distance: Array = np.maximum(slanted, upright) - 0.86
    return distance


def _arch_gate(x: Array, y: Array) -> Array:
    return _both(_box(x, y, (0.0, 0.35), (0.8, 0.5)), _disc(x, y, (0.0, -0.1), 0.8))


def _straight_seam(y: Array) -> Array:
    return np.zeros_like(y)


def _zigzag_seam(y: Array) -> Array:
    zigzag: Array = np.abs((y * 2.0) % 1.0 - 0.5) * 0.4 - 0.1
    return zigzag


def _wavy_seam(y: Array) -> Array:
    return 0.12 * _wave(y * 1.1)


def _slanted_seam(y: Array) -> Array:
    return 0.3 * y


# -- textures: 0..1 with soft edges, period one ----------------------------------------------------


def _soft(value: Array) -> Array:
    soft: Array = np.clip(value * 2.5 + 0.5, 0, 1)
    return soft


def _wave(x: Array) -> Array:
    wave: Array = np.sin(x * math.tau)
    return wave


def _stripes(x: Array, y: Array) -> Array:
    return _soft(_wave(x) + 0 * y)


def _checkers(x: Array, y: Array) -> Array:
    return _soft(_wave(x * 0.6) * _wave(y * 0.6) * 1.5)


def _dots(x: Array, y: Array) -> Array:
    return _soft((0.33 - _length(x % 1.0 - 0.5, y % 1.0 - 0.5)) * 4)


_LATTICE: Array = np.random.default_rng(1).random((16, 16), dtype=np.float32)


def _clouds(x: Array, y: Array) -> Array:
    x, y = np.broadcast_arrays(x * 1.2, y * 1.2)
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    left, right, top, bottom = column & 15, (column + 1) & 15, row & 15, (row + 1) & 15
    upper = _LATTICE[top, left] * (1 - u) + _LATTICE[top, right] * u
    lower = _LATTICE[bottom, left] * (1 - u) + _LATTICE[bottom, right] * u
    return _soft((upper * (1 - v) + lower * v - 0.5) * 2)


def _rings(x: Array, y: Array) -> Array:
    return _soft(_wave(_length(x, y)))


def _ripples(x: Array, y: Array) -> Array:
    return _soft(_wave(x + 0.22 * _wave(y * 0.7)))


def _bricks(x: Array, y: Array) -> Array:
    shifted = x * 0.7 + 0.5 * (np.floor(y * 1.3) % 2)
    gap = np.minimum(0.5 - np.abs(shifted % 1.0 - 0.5), 0.5 - np.abs((y * 1.3) % 1.0 - 0.5))
    return _soft((gap - 0.11) * 6)


def _crosshatch(x: Array, y: Array) -> Array:
    return _soft(np.maximum(_wave((x + y) * 0.7), _wave((x - y) * 0.7)) * 1.5 - 0.9)


# -- what a split may show -------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The shapes, gates, seams, textures and colours (RGB hex) of one split."""

    shapes: tuple[Field, ...]
    gates: tuple[Field, ...]
    seams: tuple[Callable[[Array], Array], ...]
    textures: tuple[Field, ...]
    colours: tuple[str, ...]
    backgrounds: tuple[str, ...]


LOOKS: dict[SplitName, Look] = {
    "train": Look(
        shapes=(_arrow, _ell, _flag, _drop),
        gates=(_square_gate, _round_gate),
        seams=(_straight_seam, _zigzag_seam),
        textures=(_stripes, _checkers, _dots, _clouds),
        colours=("e4572e", "f3a712", "2e86ab", "a23b72", "3bb273", "fff3d6", "17a2b8"),
        backgrounds=("22303c", "e3dccb", "4c5d50", "b9c8d3", "5a4a42"),
    ),
    "val": Look(
        shapes=(_mouth, _mug, _fish, _hammer),
        gates=(_hexagon_gate, _arch_gate),
        seams=(_wavy_seam, _slanted_seam),
        textures=(_rings, _ripples, _bricks, _crosshatch),
        colours=("ef476f", "ffd166", "06d6a0", "1479c4", "8e5be8", "f0f7ff", "f78c6b"),
        backgrounds=("2b2d42", "dfeadf", "54425f", "c2b8a3", "3d5a6c"),
    ),
}
