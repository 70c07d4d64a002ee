"""Scenes for the order-only collection: one textured thing moves before a quiet background.

`MOTIONS` says how the thing moves: each function gets a progress which rises from 0 to 1 and
returns a `Track`, so positions, sizes and angles are real numbers and edges are smoothed over one
pixel. All frames of a clip are computed at once, as planes of shape (3, T, H, W), colour first,
because numpy broadcasts a (T, H, W) mask over a leading axis several times faster than over a
trailing axis of three.

Everything besides the direction is drawn alike for both directions: the progress curve is mirrored
in time by the toss of a coin, and drifts and slopes are symmetric about zero. So the reverse of a
scene is a scene which the other direction could have drawn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stadapter.data.looks import Array, Field, Look

Rng: TypeAlias = np.random.Generator


# -- motion ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Track:
    """Where the thing is in each frame; every field has shape (T,).

    `x`, `y` and `radius` are in pixels from the middle of the frame, `angle` in radians, clockwise
    on the screen. `gap` is half the width of a gate's opening in units of its radius; None for a
    thing which is not a gate.
    """

    x: Array
    y: Array
    radius: Array
    angle: Array
    gap: Array | None = None


Motion: TypeAlias = Callable[[Array, Rng, float, float], Track]
"""(progress, rng, width, height) -> Track, in the direction of the pair's first class."""


def _between(progress: Array, start: float, end: float) -> Array:
    return start + (end - start) * progress


def _shift(progress: Array, rng: Rng, along: float, across: float) -> tuple[Array, Array, Array]:
    """Positions along and across a move over 0.42 to 0.56 of the frame, and the radius."""
    reach = rng.uniform(0.42, 0.56) * along
    middle = rng.uniform(-0.04, 0.04) * along
    slope, offset = rng.uniform(-0.06, 0.06) * across, rng.uniform(-0.16, 0.16) * across
    radius = np.full_like(progress, rng.uniform(0.18, 0.25) * min(along, across))
    path = _between(progress, middle - reach / 2, middle + reach / 2)
    return path, _between(progress, offset - slope, offset + slope), radius


def _horizontal(progress: Array, rng: Rng, width: float, height: float) -> Track:
    x, y, radius = _shift(progress, rng, width, height)
    return Track(x, y, radius, np.full_like(progress, rng.uniform(0, math.tau)))


def _vertical(progress: Array, rng: Rng, width: float, height: float) -> Track:
    y, x, radius = _shift(progress, rng, height, width)
    return Track(x, y, radius, np.full_like(progress, rng.uniform(0, math.tau)))


def _wander(progress: Array, rng: Rng, reach: float) -> Array:
    return _between(progress, rng.uniform(-reach, reach), rng.uniform(-reach, reach))


def _depth(progress: Array, rng: Rng, width: float, height: float) -> Track:
    """The radius grows by a factor of 2 to 3.2, evenly in its logarithm, as a thing seems to."""
    short = min(width, height)
    large, factor = rng.uniform(0.3, 0.42) * short, rng.uniform(2.0, 3.2)
    radius = large * np.exp((progress - 1) * math.log(factor))
    x, y = _wander(progress, rng, 0.08 * width), _wander(progress, rng, 0.08 * height)
    return Track(x, y, radius, np.full_like(progress, rng.uniform(0, math.tau)))


def _turn(progress: Array, rng: Rng, width: float, height: float) -> Track:
    """A thing on a wheel, swung by 130 to 270 degrees and turning with it: under half a turn
    between any two of four or more frames."""
    short, start = min(width, height), rng.uniform(0, math.tau)
    angle = _between(progress, start, start + math.radians(rng.uniform(130, 270)))
    reach, radius = rng.uniform(0.22, 0.3) * short, rng.uniform(0.15, 0.21) * short
    x = rng.uniform(-0.06, 0.06) * width + reach * np.cos(angle)
    y = rng.uniform(-0.04, 0.04) * height + reach * np.sin(angle)
    return Track(x, y, np.full_like(progress, radius), angle)


def _gate(progress: Array, rng: Rng, width: float, height: float) -> Track:
    """The two halves of a gate part, from nearly closed to nearly open."""
    radius = np.full_like(progress, rng.uniform(0.3, 0.42) * min(width, height))
    x = np.full_like(progress, rng.uniform(-0.08, 0.08) * width)
    y = np.full_like(progress, rng.uniform(-0.06, 0.06) * height)
    angle = np.full_like(progress, rng.uniform(0, math.tau))
    gap = _between(progress, rng.uniform(0.02, 0.12), rng.uniform(0.76, 0.9))
    return Track(x, y, radius, angle, gap)


MOTIONS: dict[str, Motion] = {
    "horizontal": _horizontal,
    "vertical": _vertical,
    "depth": _depth,
    "turn": _turn,
    "gate": _gate,
}


def draw_progress(rng: Rng, num_frames: int) -> Array:
    """A curve (T,) from 0 to 1 which never falls: even, eased, early or late."""
    time = np.linspace(0, 1, num_frames, dtype=np.float32)
    power = time ** np.float32(rng.uniform(1.0, 1.6))
    eased = time * time * (3 - 2 * time)
    progress: Array = power + (eased - power) * np.float32(rng.uniform(0, 1))
    # The coin makes slow starts as common as slow stops, whichever way the clip is played.
    return progress if rng.random() < 0.5 else 1 - progress[::-1]


# -- paint -----------------------------------------------------------------------------------------


def _rgb(code: str) -> Array:
    values = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    return np.array(values, dtype=np.float32).reshape(3, 1, 1, 1)


@dataclass(frozen=True)
class Skin:
    """A texture in two colours, laid on a thing at some scale, angle and offset."""

    texture: Field
    base: Array
    accent: Array
    periods: float
    angle: float
    offset: tuple[float, float]

    def paint(self, u: Array, v: Array) -> Array:
        """Colours (3, T, H, W) at the thing's own coordinates."""
        c, s = math.cos(self.angle) * self.periods, math.sin(self.angle) * self.periods
        x, y = u * c - v * s + self.offset[0], u * s + v * c + self.offset[1]
        return self.base + (self.accent - self.base) * self.texture(x, y)


def _draw_skin(rng: Rng, look: Look, colours: Sequence[Array], periods: float) -> Skin:
    texture = look.textures[int(rng.integers(len(look.textures)))]
    offset = (rng.uniform(0, 4), rng.uniform(0, 4))
    scale = periods * rng.uniform(0.85, 1.25)
    return Skin(texture, colours[0], colours[1], scale, rng.uniform(0, math.tau), offset)


def _draw_colours(rng: Rng, look: Look) -> tuple[Array, list[Array]]:
    """A background colour, and the look's other colours in random order, clear ones first."""
    background = _rgb(look.backgrounds[int(rng.integers(len(look.backgrounds)))])
    shuffled = [_rgb(look.colours[int(i)]) for i in rng.permutation(len(look.colours))]

    def is_faint(colour: Array) -> bool:
        return float(np.linalg.norm(colour - background)) < 0.5

    return background, sorted(shuffled, key=is_faint)


def _local(x: Array, y: Array, track: Track, mirror: float) -> tuple[Array, Array]:
    """Frame pixels to the thing's own coordinates, in which it fits the unit disc."""
    radius, angle = track.radius[:, None, None], track.angle[:, None, None]
    dx, dy = (x - track.x[:, None, None]) / radius, (y - track.y[:, None, None]) / radius
    c, s = np.cos(angle), np.sin(angle)
    return (dx * c + dy * s) * mirror, dy * c - dx * s


def _cover(distance: Array, radius: Array) -> Array:
    """Signed distance in radii to the share of each pixel which is inside."""
    return np.clip(0.5 - distance * radius[:, None, None], 0, 1)


def _lay(canvas: Array, colour: Array, share: Array) -> Array:
    """Lay a colour over the canvas; `share` (T, H, W) says how much of each pixel it takes."""
    return canvas + (colour - canvas) * share


def _background(x: Array, y: Array, rng: Rng, look: Look, colour: Array, short: float) -> Array:
    """A texture in two near tones, a little darker towards the corners."""
    towards = 1.0 if float(colour.mean()) < 0.5 else 0.0
    accent = colour + (towards - colour) * rng.uniform(0.08, 0.16)
    skin = _draw_skin(rng, look, (colour, accent), rng.uniform(3.0, 5.0))
    return skin.paint(x / short, y / short)


def _distractor(
    canvas: Array, x: Array, y: Array, rng: Rng, look: Look, colour: Array, size: tuple[int, int]
) -> Array:
    """A small plain thing which stands still, somewhere towards the rim of the frame."""
    width, height = size
    bearing, distance = rng.uniform(0, math.tau), rng.uniform(0.3, 0.46)
    one = np.ones(1, dtype=np.float32)
    track = Track(
        x=one * (math.cos(bearing) * distance * width),
        y=one * (math.sin(bearing) * distance * height),
        radius=one * (rng.uniform(0.06, 0.1) * min(width, height)),
        angle=one * rng.uniform(0, math.tau),
    )
    shape = look.shapes[int(rng.integers(len(look.shapes)))]
    u, v = _local(x, y, track, 1.0)
    return _lay(canvas, colour, _cover(shape(u, v), track.radius))


def _thing(
    canvas: Array, u: Array, v: Array, track: Track, rng: Rng, look: Look, colours: list[Array]
) -> Array:
    """The main thing, with a soft shadow around it and a dark line along its edge."""
    shape = look.shapes[int(rng.integers(len(look.shapes)))]
    skin = _draw_skin(rng, look, colours, 1.3)
    distance = shape(u, v)
    canvas = canvas * (1 - 0.4 * np.clip(1 - distance / 0.35, 0, 1))
    canvas = _lay(canvas, skin.base * 0.3, _cover(distance, track.radius))
    return _lay(canvas, skin.paint(u, v), _cover(distance + 0.08, track.radius))


def _opening(
    canvas: Array, u: Array, v: Array, track: Track, rng: Rng, look: Look, colours: list[Array]
) -> Array:
    """A gate: a frame, two textured halves which slide apart, and a room with a thing in it."""
    assert track.gap is not None
    gate = look.gates[int(rng.integers(len(look.gates)))]
    seam = look.seams[int(rng.integers(len(look.seams)))]
    treasure = look.shapes[int(rng.integers(len(look.shapes)))]
    halves = _draw_skin(rng, look, colours, 1.6)
    outline, line, gap = gate(u, v), seam(v), track.gap[:, None, None]
    # Positive on a half, negative in the opening between the halves.
    depth = np.abs(u - line) - gap

    room = colours[2] * np.clip(0.85 + depth * 0.35, 0.35, 1)
    room = _lay(room, colours[3], _cover(treasure(u / 0.6, v / 0.6) * 0.6, track.radius))
    room = room * np.clip(0.45 - depth * 4, 0.45, 1)
    panel = halves.paint(u + np.where(u < line, gap, -gap), v)
    panel = _lay(panel, halves.base * 0.3, _cover(depth - 0.07, track.radius))
    inside = _lay(room, panel, _cover(-depth, track.radius))

    canvas = canvas * (1 - 0.4 * np.clip(1 - outline / 0.35, 0, 1))
    canvas = _lay(canvas, halves.base * 0.25, _cover(outline - 0.1, track.radius))
    return _lay(canvas, inside, _cover(outline, track.radius))


def render_scene(
    motion: str, look: Look, rng: Rng, *, num_frames: int, width: int, height: int
) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3), RGB, of one random scene, moving as the pair's first class does."""
    track = MOTIONS[motion](draw_progress(rng, num_frames), rng, width, height)
    background, colours = _draw_colours(rng, look)
    x = np.arange(width, dtype=np.float32)[None, None, :] - (width - 1) / 2
    y = np.arange(height, dtype=np.float32)[None, :, None] - (height - 1) / 2
    if rng.random() < 0.5:  # The camera drifts a little; otherwise the background is one frame.
        bearing, reach = rng.uniform(0, math.tau), rng.uniform(0.02, 0.05) * min(width, height)
        time = np.linspace(-0.5, 0.5, num_frames, dtype=np.float32)[:, None, None]
        x, y = x + time * (math.cos(bearing) * reach), y + time * (math.sin(bearing) * reach)

    canvas = _background(x, y, rng, look, background, min(width, height))
    for index in range(int(rng.integers(3))):
        canvas = _distractor(canvas, x, y, rng, look, colours[4 + index], (width, height))
    u, v = _local(x, y, track, 1.0 if rng.random() < 0.5 else -1.0)
    paint = _thing if track.gap is None else _opening
    canvas = paint(canvas, u, v, track, rng, look, colours)

    grain = rng.standard_normal((num_frames, height, width), dtype=np.float32)
    canvas = canvas * 255 + grain * rng.uniform(0.5, 2.0) + 0.5
    return np.ascontiguousarray(np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0))
