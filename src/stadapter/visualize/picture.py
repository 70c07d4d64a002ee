"""A comparison as one still picture, or as one picture per frame of the clip."""

from collections.abc import Mapping

from PIL import Image

from stadapter.visualize.observe import Observation
from stadapter.visualize.paint import Layer, colour_frames, overlaid
from stadapter.visualize.sheet import change_scale, draw_sheet, heat_scale
from stadapter.visualize.words import ROLES, heading, layer_name

MAX_COLUMNS = 8
"""Frames side by side in a still picture; further ones below."""


def still(shown: Observation, layers: Mapping[str, Layer], size: int) -> Image.Image:
    """Frames across; input, frozen, adapted and change down, for each layer."""
    pictures = colour_frames(shown.frames, size)
    T = len(pictures)
    rows: list[tuple[str, list[Image.Image]]] = []
    for first in range(0, T, MAX_COLUMNS):
        part = range(first, min(T, first + MAX_COLUMNS))
        if first:
            rows.append(("", []))
        numbers_of = f" {first + 1}-{part[-1] + 1}" if T > MAX_COLUMNS else ""
        rows.append((ROLES[0] + numbers_of, [pictures[t] for t in part]))
        for name, layer in layers.items():
            if len(layers) > 1:
                rows.append(("", []))
            for role, (numbers, palette) in zip(ROLES[1:], layer.rows(), strict=True):
                label = role if len(layers) == 1 else f"{layer_name(name)}, {role}"
                rows.append((label, [overlaid(pictures[t], numbers[t], palette) for t in part]))
    columns = [f"frame {t + 1}" if T <= MAX_COLUMNS else "" for t in range(min(T, MAX_COLUMNS))]
    return _sheet(shown, layers, rows, columns)


def moving(shown: Observation, layers: Mapping[str, Layer], size: int) -> list[Image.Image]:
    """A picture per frame: input, frozen, adapted and change across, layers down."""
    pictures = colour_frames(shown.frames, size)
    sheets = []
    for t, picture in enumerate(pictures):
        rows = []
        for name, layer in layers.items():
            maps = [overlaid(picture, numbers[t], palette) for numbers, palette in layer.rows()]
            label = layer_name(name) if len(layers) > 1 else f"{t + 1}/{len(pictures)}"
            rows.append((label, [picture, *maps]))
        sheets.append(_sheet(shown, layers, rows, list(ROLES)))
    return sheets


def _sheet(
    shown: Observation,
    layers: Mapping[str, Layer],
    rows: list[tuple[str, list[Image.Image]]],
    columns: list[str],
) -> Image.Image:
    scales = []
    if len(layers) == 1:
        [layer] = layers.values()
        scales = [heat_scale(layer.top), change_scale(layer.most_change)]
    return draw_sheet(rows, columns=columns, heading=heading(shown, list(layers)), scales=scales)
