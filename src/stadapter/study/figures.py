"""The figures of a study as SVG and PNG. The only file that knows matplotlib (extra: study).

Each function draws what has finished and leaves out what has not. Points are means over seeds; bars
are the wider of one standard deviation over them and Wilson's 95% interval over the clips.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stadapter.atomic import atomic_path
from stadapter.study.results import SCORE, CellResult, Material, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib's own, so that figures are alike everywhere
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e1e4e8",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#9aa3ad",
    "text.color": "#1b1f24",
    "axes.labelcolor": "#1b1f24",
    "xtick.color": "#5f6770",
    "ytick.color": "#5f6770",
    "svg.hashsalt": "stadapter",  # the same runs give the same file
    "svg.fonttype": "none",
}
_COLOURS = ("#1f5fae", "#c4590c", "#1a7f6b", "#7a5195", "#a8324a", "#6b6f00", "#007c9e", "#5f6770")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Drawn:
    """A figure that was written."""

    name: str
    """Of its files, NAME.svg and NAME.png."""
    question: str
    """Which it answers."""
    note: str
    """How to read it."""


def require_matplotlib() -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib, which is missing; pip install stadapter[study]"
        ) from error


def draw_figures(folder: Path, material: Material) -> list[Drawn]:
    """Write every figure for which there are at least two points; returns what was written."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(_STYLE):
        for draw in _FIGURES:
            made = draw(material)
            if made is not None:
                figure, about = made
                _save(figure, folder, about.name)
                drawn.append(about)
    return drawn


Made = tuple["Figure", Drawn] | None


def _parameters(material: Material) -> Made:
    points = [c for c in material.entries() if "num_trained" in c.mean and SCORE in c.mean]
    if len(points) < 2:
        return None
    from matplotlib.ticker import EngFormatter, NullFormatter

    figure, axes = _axes()
    widths = [c for _, c in material.found(material.plan.ablations.get("width", {}))]
    widths = [c for c in widths if "num_trained" in c.mean and SCORE in c.mean]
    widths.sort(key=lambda c: c.mean["num_trained"])
    for cell in points:
        entry = cell.cell.entry
        several = len(widths) > 1 and entry == widths[0].cell.entry
        name = f"{entry}, {len(widths)} widths" if several else entry
        _line(axes, widths if several else [cell], "num_trained", material.style(entry), name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("trained parameters")
    _share_axis(axes, material.score)
    _legend(axes)
    return figure, Drawn(
        "parameters",
        "How much accuracy does a method give for the parameters it trains?",
        "Up and to the left is better. Logarithmic in parameters.",
    )


def _time(material: Material) -> Made:
    points = [c for c in material.entries() if "seconds" in c.mean and SCORE in c.mean]
    if len(points) < 2:
        return None
    figure, axes = _axes()
    for cell in points:
        entry = cell.cell.entry
        line = [c for _, c in material.found(material.plan.epochs.get(entry, {}))]
        line = [c for c in line if "seconds" in c.mean and SCORE in c.mean] or [cell]
        _line(axes, line, "seconds", material.style(entry), entry)
    axes.set_xlabel("training time in seconds")
    axes.set_xlim(left=0)
    _share_axis(axes, material.score)
    _legend(axes)
    return figure, Drawn(
        "time",
        "How much accuracy does a method give for its training time?",
        "Points joined by a line are the same method trained for more epochs, each with a schedule "
        "of its own. Times are those of this machine, with as many runs beside each other as the "
        "study says.",
    )


def _fractions(material: Material) -> Made:
    lines = {
        entry: [c for _, c in material.found(series) if SCORE in c.mean]
        for entry, series in material.plan.fractions.items()
    }
    if not any(len(line) > 1 for line in lines.values()):
        return None
    figure, axes = _axes()
    for entry, line in lines.items():
        if line:
            shares = [100 * c.cell.train_fraction for c in line]
            _errors(axes, shares, line, material.style(entry), entry)
    axes.set_xlabel("training clips, % of all")
    axes.set_xlim(0, 103)
    _share_axis(axes, material.score)
    _legend(axes)
    return figure, Drawn(
        "fractions",
        "How much accuracy does a method give for the clips it is shown?",
        "Smaller fractions are parts of the larger ones, chosen in each class by the seed. "
        + (
            "All make as many steps: with fewer clips there are more epochs."
            if material.same_steps
            else "The epochs are the same, so fewer clips also mean fewer steps."
        ),
    )


def _ablations(material: Material) -> Made:
    found = {s: material.found(series) for s, series in material.plan.ablations.items()}
    found = {s: [(v, c) for v, c in line if SCORE in c.mean] for s, line in found.items()}
    found = {setting: line for setting, line in found.items() if len(line) > 1}
    if not found:
        return None
    from matplotlib.figure import Figure

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.6, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    base = _base(material)
    for index, (setting, line) in enumerate(found.items()):
        axes = grid[index // columns][index % columns]
        heights = [100 * c.mean[SCORE] for _, c in line]
        own = [c.cell == base for _, c in line]
        axes.bar(
            range(len(line)),
            heights,
            width=0.62,
            color=[_COLOURS[0] if mine else "#a9bfdc" for mine in own],
            yerr=_bars([c for _, c in line]),
            error_kw={"ecolor": "#1b1f24", "elinewidth": 1, "capsize": 3},
        )
        axes.set_xticks(range(len(line)), [_broken_text(value) for value, _ in line])
        axes.set_title(setting, fontsize=10, fontweight="bold")
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0, 100)
        axes.yaxis.set_major_formatter("{x:.0f}%")
        if index % columns == 0:
            axes.set_ylabel(material.score)
    for index in range(len(found), rows * columns):
        grid[index // columns][index % columns].set_visible(False)
    entry = next(iter(found.values()))[0][1].cell.entry
    return figure, Drawn(
        "ablations",
        f"What does each setting of {entry} contribute?",
        f"One setting is changed at a time; the dark bar is {entry} itself.",
    )


def _groups(material: Material) -> Made:
    entries = [c for c in material.entries() if any(score_of(g) in c.mean for g in material.groups)]
    if len(material.groups) < 1 or not entries:
        return None
    from matplotlib.figure import Figure

    num = len(material.groups)
    figure = Figure(figsize=(7.2, 1.2 + 0.34 * len(entries) * max(1.4, num)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / num
    for k, group in enumerate(material.groups):
        places = [i + (k - (num - 1) / 2) * height for i in range(len(entries))]
        shares = [100 * c.mean.get(score_of(group), 0.0) for c in entries]
        axes.barh(places, shares, height=height * 0.92, color=_COLOURS[k % 8], label=group)
        for place, share in zip(places, shares, strict=True):
            axes.text(share + 1, place, f"{share:.0f}", va="center", fontsize=8.5)
        if group in material.bounds:
            axes.axvline(
                100 * material.bounds[group],
                color=_COLOURS[k % 8],
                linestyle=(0, (4, 3)),
                linewidth=1.2,
                label=f"most that is possible on {group} without order",
            )
    axes.set_yticks(range(len(entries)), [c.cell.entry for c in entries])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 106)
    axes.set_xticks(range(0, 101, 20))
    axes.xaxis.set_major_formatter("{x:.0f}%")
    axes.set_xlabel(f"{material.score} over the clips of these classes")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure, Drawn(
        "groups",
        f"Which classes can a method tell: {' or '.join(material.groups)}?",
        "Every clip may be given any class of the collection.",
    )


_FIGURES: tuple[Callable[[Material], Made], ...] = (
    _parameters,
    _time,
    _fractions,
    _groups,
    _ablations,
)


# -- pieces ----------------------------------------------------------------------------------------


def _axes() -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    return figure, figure.subplots()


def _base(material: Material) -> Any:
    """The cell that ablations change."""
    of = next((c.entry for s in material.plan.ablations.values() for c in s.values()), None)
    return next((c for c in material.plan.entries if c.entry == of), None)


def _bars(cells: Sequence[CellResult]) -> list[list[float]]:
    """Lengths of error bars below and above, in percent."""
    return [[100 * cell.bar[0] for cell in cells], [100 * cell.bar[1] for cell in cells]]


def _errors(
    axes: "Axes", x: Sequence[float], cells: Sequence[CellResult], style: int, name: str
) -> None:
    axes.errorbar(
        x,
        [100 * cell.mean[SCORE] for cell in cells],
        yerr=_bars(cells),
        label=name,
        color=_COLOURS[style % len(_COLOURS)],
        marker=_MARKERS[(style + style // len(_COLOURS)) % len(_MARKERS)],
        markersize=6.5,
        linewidth=1.6,
        elinewidth=0.9,
        capsize=2.5,
    )


def _line(axes: "Axes", cells: Sequence[CellResult], by: str, style: int, name: str) -> None:
    _errors(axes, [cell.mean[by] for cell in cells], cells, style, name)


def _share_axis(axes: "Axes", title: str) -> None:
    axes.set_ylabel(title)
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_formatter("{x:.0f}%")


def _legend(axes: "Axes") -> None:
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, labelspacing=0.7
    )


def _broken_text(value: str) -> str:
    """A long value on two lines."""
    return value.replace(",", ",\n") if len(value) > 8 and not value[0].isdigit() else value


def _save(figure: "Figure", folder: Path, name: str) -> None:
    for suffix, extra in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix, facecolor="white", **extra)
        with atomic_path(folder / f"{name}.{suffix}") as temporary:
            temporary.write_bytes(content.getvalue())
