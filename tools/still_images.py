"""Draws the still pictures on which the embedded backbone "tiny" is pretrained.

Every picture is drawn alone: textured shapes over a textured ground, with occlusion, shading,
outlines, blur, noise and varied colour. Nothing moves and no two pictures share an object, so a
network trained on them has never seen two frames of anything. Because we draw the pictures we
also know, for each pixel, which object is visible there, where its centre lies, how large it is
and which way it points: the dense targets come for free.

Work is grouped by family (`still_families`) over the whole batch, so a picture costs about two
milliseconds. The same state of the generator gives the same pictures.

Letters: B pictures, K object slots per picture, n layers (objects or grounds), S pixels per side.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from still_families import (
    NEEDS_NOISE,
    NUM_ANGLES,
    NUM_TRAIN_SHAPES,
    NUM_TRAIN_TEXTURES,
    SHAPE_NAMES,
    SHAPES,
    TAU,
    TEXTURES,
    hard,
    pink_noise,
    polar,
    uniform,
    voronoi,
)
from torch import Generator, Tensor


@dataclass(frozen=True)
class Layers:
    """What was drawn: one row per object or ground, all fields of length n."""

    shape: Tensor
    texture: Tensor
    centre: Tensor  # (n, 2) x, y in pixels
    radius: Tensor  # pixels
    angle: Tensor  # of the shape, radians
    aspect: Tensor  # x is stretched by this, y by its inverse
    texture_angle: Tensor
    period: Tensor  # pixels


@dataclass(frozen=True)
class StillBatch:
    """Pictures with everything known about them; empty slots have `present` False."""

    images: Tensor  # (B, 3, S, S) in [0, 1]
    visible: Tensor  # (B, K, S, S): how much of a pixel shows object k
    objects: Layers  # fields (B*K, ...), row b*K + k
    present: Tensor  # (B, K)
    ground_texture: Tensor  # (B,)
    ground_angle: Tensor  # (B,) texture angle of the ground
    ground_period: Tensor  # (B,)


@dataclass(frozen=True)
class StillImages:
    """Where the pictures are drawn from."""

    size: int = 64
    counts: tuple[float, ...] = (0.04, 0.36, 0.26, 0.18, 0.10, 0.06)  # chance of 0, 1 .. objects
    shapes: tuple[int, int] = (0, NUM_TRAIN_SHAPES)  # families first .. last (exclusive)
    textures: tuple[int, int] = (0, NUM_TRAIN_TEXTURES)
    radius: tuple[float, float] = (5.0, 25.0)

    def draw(self, num_images: int, g: Generator) -> StillBatch:
        """Same generator state, same pictures."""
        B, K, S = num_images, len(self.counts) - 1, self.size
        ground, objects = self._layers(B, g), self._layers(B * K, g)
        chance = torch.tensor(self.counts).expand(B, -1)
        count = torch.multinomial(chance, 1, generator=g)
        present = torch.arange(K) < count
        rows = present.flatten().nonzero()[:, 0]
        images = self._ground(ground, g)
        drawn = Layers(**{name: field[rows] for name, field in vars(objects).items()})
        colours = _shade(self._paint(drawn, g), drawn, g)
        cover, depth = self._cover(drawn, g)
        colours = _outline_colour(colours, depth, g)
        visible = torch.zeros(B * K, S, S)
        for k in range(K):  # later slots lie in front
            pick = (rows % K == k).nonzero()[:, 0]
            picture, front = rows[pick] // K, cover[pick]
            images[picture] = torch.lerp(images[picture], colours[pick], front[:, None])
            behind = picture[:, None] * K + torch.arange(k)
            visible[behind] *= 1 - front[:, None]
            visible[rows[pick]] = front
        images = _photograph(images, g)
        return StillBatch(
            images,
            visible.view(B, K, S, S),
            objects,
            present,
            ground.texture,
            ground.texture_angle,
            ground.period,
        )

    def _layers(self, n: int, g: Generator) -> Layers:
        low, high = math.log(self.radius[0]), math.log(self.radius[1])
        stretched = torch.rand(n, generator=g) < 0.4
        return Layers(
            shape=torch.randint(*self.shapes, (n,), generator=g),
            texture=torch.randint(*self.textures, (n,), generator=g),
            centre=uniform(g, 0.08, 0.92, n, 2) * self.size,
            radius=uniform(g, low, high, n).exp(),
            angle=uniform(g, 0, TAU, n),
            aspect=torch.where(stretched, uniform(g, 1.15, 1.6, n), 1.0),
            texture_angle=uniform(g, 0, TAU, n),
            period=uniform(g, math.log(3.5), math.log(16), n).exp(),
        )

    def _grid(self) -> tuple[Tensor, Tensor]:
        steps = torch.arange(self.size) + 0.5
        return steps[None, None, :].expand(1, self.size, -1), steps[None, :, None]

    def _fields(self, layers: Layers, g: Generator) -> Tensor:
        """Texture field of each layer, (n, S, S) in [0, 1]; one pass per family."""
        x, y = self._grid()
        field = torch.empty(len(layers.texture), self.size, self.size)
        for number, (name, texture) in enumerate(TEXTURES.items()):
            rows = (layers.texture == number).nonzero()[:, 0]
            n = len(rows)
            if n == 0:
                continue
            dx = x - layers.centre[rows, 0, None, None]
            dy = y - layers.centre[rows, 1, None, None]
            if name == "speckle":
                coarse = torch.rand(n, 1, self.size // 2, self.size // 2, generator=g)
                field[rows] = F.interpolate(coarse, scale_factor=2.0, mode="nearest")[:, 0]
            elif name == "cells":
                field[rows] = voronoi(x.expand_as(dx + dy), y.expand_as(dx + dy), g)
            else:
                c = (layers.texture_angle[rows].cos() / layers.period[rows])[:, None, None]
                s = (layers.texture_angle[rows].sin() / layers.period[rows])[:, None, None]
                noise = pink_noise(n, self.size, g) if name in NEEDS_NOISE else dx
                field[rows] = texture(c * dx + s * dy, c * dy - s * dx, noise)
        return field

    def _paint(self, layers: Layers, g: Generator) -> Tensor:
        """Texture fields coloured between two colours: (n, 3, S, S)."""
        n = len(layers.texture)
        first = torch.rand(n, 3, 1, 1, generator=g)
        free, strength = torch.rand(n, 3, 1, 1, generator=g), uniform(g, 0.25, 1, n, 1, 1, 1)
        # Two free colours are often alike; pushing the second away keeps the texture legible.
        second = torch.lerp(first, torch.where(first > 0.5, free * 0.5, 0.5 + free * 0.5), strength)
        return torch.lerp(first, second, self._fields(layers, g)[:, None])

    def _ground(self, layers: Layers, g: Generator) -> Tensor:
        """Textured ground; every fourth has a second tone below a horizon or in a noise blot."""
        images = self._paint(layers, g)
        n, (x, y) = len(images), self._grid()
        angle, offset = uniform(g, 0, TAU, n, 1, 1), uniform(g, -20, 20, n, 1, 1)
        half = self.size / 2
        line = (x - half) * angle.cos() + (y - half) * angle.sin() + offset
        blot = torch.where(
            torch.rand(n, 1, 1, generator=g) < 0.5, line, 8 * pink_noise(n, self.size, g)
        )
        used = (torch.rand(n, 1, 1, generator=g) < 0.25) * uniform(g, 0.2, 0.9, n, 1, 1)
        tone = torch.rand(n, 3, 1, 1, generator=g)
        return torch.lerp(images, tone.expand_as(images), (hard(blot, 1.0) * used)[:, None])

    def _cover(self, layers: Layers, g: Generator) -> tuple[Tensor, Tensor]:
        """Soft coverage of each shape and depth inside it in pixels, both (n, S, S)."""
        n, (x, y) = len(layers.shape), self._grid()
        c, s = layers.angle.cos()[:, None, None], layers.angle.sin()[:, None, None]
        dx, dy = x - layers.centre[:, 0, None, None], y - layers.centre[:, 1, None, None]
        radius, aspect = layers.radius[:, None, None], layers.aspect[:, None, None]
        px, py = (c * dx + s * dy) / (radius * aspect), (c * dy - s * dx) * aspect / radius
        profile, a = torch.empty(n, NUM_ANGLES), torch.rand(n, generator=g)
        for number, (draw_profile, _) in enumerate(SHAPES.values()):
            rows = (layers.shape == number).nonzero()[:, 0]
            if len(rows):
                profile[rows] = draw_profile(len(rows), a[rows], g)
        turn = (torch.atan2(py, px) * (NUM_ANGLES / TAU)).round().long() % NUM_ANGLES
        depth = profile.gather(1, turn.flatten(1)).view_as(px) - torch.hypot(px, py)
        depth = _pierce(depth, px, py, layers, a)
        rows = (layers.shape == SHAPE_NAMES.index("strokes")).nonzero()[:, 0]
        depth[rows] = _strokes(px[rows], py[rows], g)
        depth = depth * radius
        return (0.5 + depth).clamp(0, 1), depth


def _pierce(depth: Tensor, px: Tensor, py: Tensor, layers: Layers, a: Tensor) -> Tensor:
    """Cuts the round hole of rings (in the middle) and crescents (to one side)."""
    for name, shift in (("ring", 0.0), ("crescent", 0.55)):
        rows = (layers.shape == SHAPE_NAMES.index(name)).nonzero()[:, 0]
        hole = 0.45 + 0.3 * a[rows, None, None]
        depth[rows] = torch.minimum(depth[rows], torch.hypot(px[rows] - shift, py[rows]) - hole)
    return depth


def _strokes(px: Tensor, py: Tensor, g: Generator) -> Tensor:
    """Glyph-like polylines of three segments; returns width minus distance, in shape units."""
    n = len(px)
    points = polar(uniform(g, 0, TAU, n, 4), uniform(g, 0.5, 1, n, 4))
    width, nearest = uniform(g, 0.1, 0.25, n, 1, 1), torch.full_like(px, 9.0)
    for i in range(3):
        (ax, ay), (bx, by) = (points[:, j, :, None, None].unbind(1) for j in (i, i + 1))
        ex, ey = bx - ax, by - ay
        t = ((px - ax) * ex + (py - ay) * ey) / (ex * ex + ey * ey).clamp(min=1e-4)
        t = t.clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(px - ax - t * ex, py - ay - t * ey))
    return width - nearest


def _shade(colours: Tensor, layers: Layers, g: Generator) -> Tensor:
    """Light from one side, on half of the objects."""
    n, S = len(colours), colours.shape[-1]
    steps, angle = torch.arange(S) + 0.5, uniform(g, 0, TAU, n, 1, 1)
    strength = uniform(g, 0, 0.5, n, 1, 1) * (torch.rand(n, 1, 1, generator=g) < 0.5)
    along = (steps[None, None, :] - layers.centre[:, 0, None, None]) * angle.cos()
    along = along + (steps[None, :, None] - layers.centre[:, 1, None, None]) * angle.sin()
    light = 1 + strength * (along / layers.radius[:, None, None]).clamp(-1, 1)
    return colours * light[:, None]


def _outline_colour(colours: Tensor, depth: Tensor, g: Generator) -> Tensor:
    """A rim of about 1.5 pixels in one colour, on every fifth object."""
    n = len(colours)
    used = torch.rand(n, 1, 1, generator=g) < 0.2
    rim = (2.0 - depth).clamp(0, 1) * used
    return torch.lerp(colours, torch.rand(n, 3, 1, 1, generator=g).expand_as(colours), rim[:, None])


def _photograph(images: Tensor, g: Generator) -> Tensor:
    """What a camera does: blur, contrast, sometimes no colour, and sensor noise."""
    n = len(images)
    for _ in range(2):
        soft = uniform(g, 0, 1, n, 1, 1, 1) * (torch.rand(n, 1, 1, 1, generator=g) < 0.4)
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        images = torch.lerp(images, F.avg_pool2d(padded, 3, 1), soft)
    grey = torch.rand(n, 1, 1, 1, generator=g) < 0.15
    images = torch.where(grey, images.mean(1, keepdim=True), images)
    contrast, light = uniform(g, 0.5, 1.15, n, 1, 1, 1), uniform(g, -0.12, 0.12, n, 1, 1, 1)
    images = 0.5 + light + contrast * (images - 0.5)
    noise = uniform(g, 0, 0.05, n, 1, 1, 1) * (torch.rand(n, 1, 1, 1, generator=g) < 0.6)
    return (images + noise * torch.randn(images.shape, generator=g)).clamp(0, 1)
