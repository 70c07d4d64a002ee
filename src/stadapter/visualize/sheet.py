"""A sheet: pictures in rows and columns with words around them and a scale below."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stadapter.visualize.paint import CHANGE, DIM, HEAT, Pixels

PAPER, INK, MUTED = (255, 255, 255), (27, 31, 36), (95, 103, 112)
_GAP, _MARGIN, _SCALE_WIDTH = 4, 16, 150
_GROUND = round(DIM * 128)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Scale:
    """Colours with numbers at their ends."""

    palette: Pixels
    low: str
    high: str
    meaning: str


def heat_scale(top: float) -> Scale:
    """Of maps."""
    return Scale(HEAT, "1", _short(top), "times the even share (1 = every patch alike)")


def change_scale(most: float) -> Scale:
    """Of differences."""
    return Scale(CHANGE, f"-{_short(most)}", f"+{_short(most)}", "change: adapted less frozen")


def _short(number: float) -> str:
    return f"{number:.1f}" if number >= 2 else f"{number:.2f}"


def draw_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    columns: Sequence[str],
    heading: Sequence[str],
    scales: Sequence[Scale],
) -> Image.Image:
    """One picture, on white paper.

    Args:
        rows: name and pictures, all of one size; an empty name and no picture leaves a gap.
        columns: a name above each picture of a row.
        heading: lines on top, the first one large.
        scales: below.
    """
    big, font, small = (ImageFont.load_default(size) for size in (19, 14, 13))
    cell = next(pictures[0].size for _, pictures in rows if pictures)
    names = max(int(font.getlength(name)) for name, _ in rows)
    left = _MARGIN + names + 10
    lines = [(plain(text), big if i == 0 else small) for i, text in enumerate(heading)]
    right = left + len(columns) * (cell[0] + _GAP) - _GAP
    widest = max(int(f.getlength(text)) for text, f in lines)
    keys = max((_key_width(scale, small) for scale in scales), default=0)
    width = max(right, _MARGIN + widest, _MARGIN + keys) + _MARGIN
    top = _MARGIN + 28 + 20 * (len(lines) - 1) + 8
    heights = [cell[1] + _GAP if pictures else 14 for _, pictures in rows]
    below = top + 20 + sum(heights) + 10
    sheet = Image.new("RGB", (width, below + 24 * len(scales) + _MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (text, face) in enumerate(lines):
        y = _MARGIN if i == 0 else _MARGIN + 28 + 20 * (i - 1)
        draw.text((_MARGIN, y), text, INK if i == 0 else MUTED, face)
    for j, name in enumerate(columns):
        middle = left + j * (cell[0] + _GAP) + cell[0] / 2
        draw.text((middle, top + 6), plain(name), MUTED, small, anchor="mm")
    y = top + 20
    for (name, pictures), height in zip(rows, heights, strict=True):
        draw.text((left - 10, y + cell[1] / 2), plain(name), INK, font, anchor="rm")
        for j, picture in enumerate(pictures):
            sheet.paste(picture, (left + j * (cell[0] + _GAP), y))
        y += height
    for i, scale in enumerate(scales):
        _draw_scale(sheet, draw, scale, (_MARGIN, below + 24 * i), small)
    return sheet


def _key_width(scale: Scale, font: Font) -> int:
    words = sum(font.getlength(text) for text in (scale.low, scale.high, scale.meaning))
    return _SCALE_WIDTH + int(words) + 40


def _draw_scale(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    scale: Scale,
    place: tuple[int, int],
    font: Font,
) -> None:
    x, y = place
    draw.text((x, y + 7), scale.low, MUTED, font, anchor="lm")
    x += int(font.getlength(scale.low)) + 8
    numbers = np.linspace(0, 255, _SCALE_WIDTH).round().astype(np.uint8)
    ramp = Image.fromarray(np.repeat(scale.palette[numbers][None], 14, axis=0))
    ground = Image.new("RGBA", ramp.size, (_GROUND, _GROUND, _GROUND, 255))
    sheet.paste(Image.alpha_composite(ground, ramp).convert("RGB"), (x, y))
    x += _SCALE_WIDTH + 8
    draw.text((x, y + 7), scale.high, MUTED, font, anchor="lm")
    x += int(font.getlength(scale.high)) + 16
    draw.text((x, y + 7), plain(scale.meaning), MUTED, font, anchor="lm")


def plain(text: str) -> str:
    """`text` in the letters that the font of Pillow has: without accents, others as "?".

    >>> plain("naïve 日本.mp4")
    'naive ??.mp4'
    """
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(letters).encode("ascii", "replace").decode("ascii")
