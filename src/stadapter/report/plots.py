"""More charts as SVG text: reliability of probabilities, values with intervals, large matrices."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stadapter.report.charts import shortened
from stadapter.report.page import escape, percent

Bins = Sequence[Mapping[str, Any]]
"""Rows as `metrics.reliability` makes them."""


def reliability_chart(series: Sequence[tuple[str, Bins]], *, across: str, up: str) -> str:
    """Stated probability across, what was observed up; the size of a mark is the number of cases.

    Args:
        series: name and bins, each with a count in at least one bin.
        across: name of the horizontal axis.
        up: name of the vertical axis.
    """
    side, left, top, bottom, right = 300, 62, 12, 46, 14
    width, height = left + side + right, top + side + bottom

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * side, top + (1 - y) * side

    parts = [
        f'<svg class="chart square" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(up)} over {escape(across)}">'
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        (x0, y0), (x1, _) = place(0, tick), place(1, tick)
        parts.append(
            f'<line class="grid" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y0}"/>'
            f'<text class="tick" x="{x0 - 8}" y="{y0 + 4:.1f}" text-anchor="end">{tick:.0%}</text>'
            f'<text class="tick" x="{place(tick, 0)[0]}" y="{top + side + 18}" '
            f'text-anchor="middle">{tick:.0%}</text>'
        )
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts.append(f'<line class="ideal" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')
    parts.append(
        f'<text class="tick" x="{left + side / 2}" y="{height - 6}" text-anchor="middle">'
        f'{escape(across)}</text><text class="tick" transform="translate(12 {top + side / 2}) '
        f'rotate(-90)" text-anchor="middle">{escape(up)}</text>'
    )
    for style, (name, bins) in enumerate(series):
        parts.append(_marks(name, [row for row in bins if row["count"]], style, place))
    return "".join(parts) + "</svg>"


def _marks(name: str, bins: Bins, style: int, place: Any) -> str:
    most = max(row["count"] for row in bins)
    points = [place(row["stated"], row["observed"]) for row in bins]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    colour, dash = f"var(--s{style})", ' stroke-dasharray="6 4"' if style else ""
    parts = [f'<polyline class="thin" points="{path}" stroke="{colour}"{dash}/>']
    for row, (x, y) in zip(bins, points, strict=True):
        radius = 3 + 6 * math.sqrt(row["count"] / most)
        fill = f'fill="{colour}"' if not style else f'class="ring" stroke="{colour}"'
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" {fill}><title>{escape(name)}: '
            f"stated {percent(row['stated'])}, observed {percent(row['observed'])}, "
            f"{row['count']:,} cases</title></circle>"
        )
    return "".join(parts)


def interval_chart(rows: Sequence[tuple[str, float, Sequence[float]]], *, label: str) -> str:
    """Differences in percentage points with their 95% intervals, around a line at zero.

    Args:
        rows: name, difference and its two ends, as shares of 1; at least one.
        label: what the chart shows, for screen readers.
    """
    width, left, right, step, top = 560, 190, 20, 34, 10
    reach = max(0.005, *(abs(x) for _, value, ends in rows for x in (value, *ends)))
    height = top + step * len(rows) + 34
    middle, half = (left + width - right) / 2, (width - left - right) / 2

    def across(value: float) -> float:
        return middle + value / (1.08 * reach) * half

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
             f'aria-label="{escape(label)}">']  # fmt: skip
    base = top + step * len(rows)
    for tick in (-reach, 0.0, reach):
        kind = "grid" if tick else "zero"
        parts.append(
            f'<line class="{kind}" x1="{across(tick):.1f}" y1="{top}" x2="{across(tick):.1f}" '
            f'y2="{base}"/><text class="tick" x="{across(tick):.1f}" y="{base + 18}" '
            f'text-anchor="middle">{100 * tick:+.1f}</text>'
        )
    for i, (name, value, (low, high)) in enumerate(rows):
        y = top + step * (i + 0.5)
        kind = "better" if low > 0 else "worse" if high < 0 else "same"
        text = f"{name}: {100 * value:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}"
        parts.append(
            f'<g class="{kind}"><title>{escape(text)}</title>'
            f'<text x="{left - 12}" y="{y + 5:.1f}" text-anchor="end" font-size="14">'
            f"{escape(shortened(name, 24))}</text>"
            f'<line class="span" x1="{across(low):.1f}" y1="{y}" x2="{across(high):.1f}" y2="{y}"/>'
            f'<circle cx="{across(value):.1f}" cy="{y}" r="5"/></g>'
        )
    return "".join(parts) + "</svg>"


def matrix_picture(counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix of many classes as a picture of a pixel per pair, for its pattern only."""
    from PIL import Image

    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = (47, 125, 209)  # to be seen on white and on black
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG", optimize=True)
    data = base64.b64encode(memory.getvalue()).decode("ascii")
    K = len(table)
    return (
        f'<img class="pixels" src="data:image/png;base64,{data}" width="{K}" height="{K}" '
        f'alt="Confusion matrix of {K} classes">'
    )
