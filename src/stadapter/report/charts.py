"""Charts as SVG text for an HTML page: curves and confusion matrices.

Written by hand rather than by a plotting library: so they take their colours from the style
sheet (light and dark), keep text as text, have tooltips, and are the same bytes each time.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stadapter.report.page import escape

NUM_COLOURS = 4
_DASHES = ("", "6 4", "2 3")


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), x ascending, all finite."""
    style: int
    """Number of its colour, and of its dashes once the colours are used up."""
    faint: bool = False
    """A background line: thin, without markers and legend; may leave the chart at the top."""


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    percent: bool = False,
) -> str:
    """Lines over epochs, from 0 on both axes.

    Args:
        series: at least one point among those that are not faint, or any at all.
        label: what the chart shows, for screen readers.
        percent: values are shares of 1, and the axis goes to 100%.
    """
    width, height, left, right, top, bottom = 480, 270, 46, 14, 12, 40
    solid = [point for s in series if not s.faint for point in s.points]
    every = [point for s in series for point in s.points]
    y_ticks = nice_ticks(1.0 if percent else max(y for _, y in solid or every), 5)
    y_texts = [f"{y:.0%}" for y in y_ticks] if percent else same_decimals(y_ticks)
    x_end, y_end = max(1.0, *(x for x, _ in every)), y_ticks[-1]
    x_ticks = nice_ticks(x_end, 8, whole=True)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + x / x_end * (width - left - right)
        return across, height - bottom - min(1.0, y / y_end) * (height - top - bottom)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">'
    ]
    for y, text in zip(y_ticks, y_texts, strict=True):
        across, down = place(0, y)
        parts.append(
            f'<line class="grid" x1="{across:.1f}" y1="{down:.1f}" x2="{width - right}" '
            f'y2="{down:.1f}"/><text class="tick" x="{across - 8:.1f}" y="{down + 4:.1f}" '
            f'text-anchor="end">{text}</text>'
        )
    for x in x_ticks:
        across, down = place(x, 0)
        if x <= x_end:
            parts.append(
                f'<text class="tick" x="{across:.1f}" y="{down + 18:.1f}" '
                f'text-anchor="middle">{x:g}</text>'
            )
    middle = (left + width - right) / 2
    parts.append(
        f'<text class="tick" x="{middle:.1f}" y="{height - 4}" text-anchor="middle">epoch</text>'
    )
    parts += [_line(s, place, percent=percent) for s in series if s.points]
    return "".join(parts) + "</svg>"


def _line(
    series: Series,
    place: Callable[[float, float], tuple[float, float]],
    *,
    percent: bool,
) -> str:
    colour = f"var(--s{series.style % NUM_COLOURS})"
    placed = [place(x, y) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    if series.faint:
        return f'<polyline class="faint" points="{path}" stroke="{colour}"/>'
    parts = [f'<polyline class="line" points="{path}" stroke="{colour}" {_dash(series.style)}/>']
    for (x, y), (across, down) in zip(series.points, placed, strict=True):
        value = f"{y:.1%}" if percent else f"{y:.4g}"
        parts.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{3 if len(placed) <= 40 else 2}" '
            f'fill="{colour}"><title>{escape(series.name)}, epoch {x:g}: {value}</title></circle>'
        )
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """Names beside a piece of their line."""
    items = "".join(
        '<span class="key"><svg width="26" height="10" aria-hidden="true"><line x1="1" y1="5" '
        f'x2="25" y2="5" stroke-width="2.5" stroke="var(--s{s.style % NUM_COLOURS})" '
        f"{_dash(s.style)}/></svg>{escape(s.name)}</span>"
        for s in series
        if not s.faint
    )
    return f'<div class="legend">{items}</div>'


def _dash(style: int) -> str:
    dash = _DASHES[style // NUM_COLOURS % len(_DASHES)]
    return f'stroke-dasharray="{dash}"' if dash else ""


def nice_ticks(largest: float, most: int, *, whole: bool = False) -> list[float]:
    """Round numbers from 0 to at least `largest`, about `most` of them.

    >>> nice_ticks(0.93, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(20, 8, whole=True)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    """
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / most
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(m * power for m in factors if m * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    count = math.ceil(largest / step - 1e-9)
    return [round(i * step, 10) for i in range(count + 1)]


def same_decimals(values: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as the one that needs most.

    >>> same_decimals([0.0, 0.5, 1.0])
    ['0.0', '0.5', '1.0']
    """
    most = max(len(f"{value:.10g}".partition(".")[2]) for value in values)
    return [f"{value:.{most}f}" for value in values]


def confusion_matrix(
    counts: Sequence[Sequence[int]], names: Sequence[str], columns: Sequence[str] | None = None
) -> str:
    """True classes down, predictions across; colour is the share of the row, text the count.

    Above 30 classes the cells are small and carry no text; every cell has a tooltip. `columns` are
    the names across where they are not the same as down.
    """
    columns = names if columns is None else columns
    K = len(names)
    cell, font = (34, 12) if K <= 15 else (26, 11) if K <= 30 else (11, 9)
    longest = max(text_width(shortened(name, 26)) for name in (*names, *columns))
    margin = math.ceil(longest * font * 0.56) + 12
    across, down = len(columns) * cell, K * cell
    width, height = margin + across + 1, margin + down + 1
    parts = [
        f'<svg class="matrix" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-size="{font}" role="img" aria-label="Confusion matrix of {K} classes">'
        f'<rect class="field" x="{margin}" y="{margin}" width="{across}" height="{down}"/>'
    ]
    for k, name in enumerate(names):
        middle = margin + k * cell + cell / 2 + font * 0.35
        parts.append(
            f'<text x="{margin - 8}" y="{middle:.1f}" text-anchor="end">{_short(name)}</text>'
        )
    for k, name in enumerate(columns):
        middle = margin + k * cell + cell / 2 + font * 0.35
        parts.append(
            f'<text transform="translate({middle:.1f} {margin - 8}) rotate(-90)">{_short(name)}'
            "</text>"
        )
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            if count:
                place = (margin + j * cell, margin + i * cell)
                tip = (
                    f"{names[i]}, predicted {columns[j]}: {count} of {total} ({count / total:.1%})"
                )
                parts.append(_cell(place, cell, count / total, str(count) if K <= 30 else "", tip))
    return "".join(parts) + "</svg>"


def _short(name: str) -> str:
    return f"<title>{escape(name)}</title>{escape(shortened(name, 26))}"


def _cell(place: tuple[int, int], cell: int, share: float, text: str, tip: str) -> str:
    x, y = place
    rect = (
        f'<rect class="cell" x="{x + 1}" y="{y + 1}" width="{cell - 1}" height="{cell - 1}" '
        f'fill-opacity="{0.12 + 0.88 * share:.2f}"/>'
    )
    kind = "high" if share > 0.75 else "middle" if share > 0.55 else "low"
    label = (
        f'<text class="{kind}" x="{x + cell / 2 + 0.5:g}" y="{y + cell / 2 + 4.5:g}" '
        f'text-anchor="middle">{text}</text>'
        if text
        else ""
    )
    return f"<g><title>{escape(tip)}</title>{rect}{label}</g>"


def text_width(text: str) -> int:
    """Width in letters; East Asian letters count twice, combining marks not at all."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shortened(text: str, most: int) -> str:
    """`text`, or its beginning and an ellipsis where it is wider than `most` letters."""
    if text_width(text) <= most:
        return text
    while text_width(text) > most - 1:
        text = text[:-1]
    return text + "…"
