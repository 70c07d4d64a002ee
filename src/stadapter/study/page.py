"""The page of a study: one self-contained HTML file, a question above each table and figure."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stadapter.atomic import write_text
from stadapter.report.page import (
    document,
    duration,
    escape,
    note,
    percent,
    plural,
    size,
    table,
)
from stadapter.study.cost import Cost
from stadapter.study.figures import Drawn
from stadapter.study.plan import Cell
from stadapter.study.results import (
    SCORE,
    CellResult,
    Material,
    RunResult,
    score_of,
    sees_order,
)


def write_page(
    out: Path,
    *,
    title: str,
    material: Material,
    results: Sequence[RunResult],
    figures: Sequence[tuple[Drawn, Path]],
    cost: Cost,
    text: str,
) -> None:
    """Write the page atomically.

    Args:
        out: the HTML file.
        title: its heading.
        material: what the figures were drawn from.
        results: every run.
        figures: what was drawn, and the SVG file of each.
        cost: estimated and measured times.
        text: the study's YAML.
    """
    sections = [
        f"<h1>{escape(title)}</h1>",
        _lead(results, material),
        _failed(results),
        _methods(material),
        *(_figure(drawn, path) for drawn, path in figures),
        _every_cell(material),
        _cost(cost, results),
        _yaml(text),
    ]
    write_text(out, document(title, "\n".join(section for section in sections if section)))


def _lead(results: Sequence[RunResult], material: Material) -> str:
    finished = sum(result.status == "finished" for result in results)
    seeds = plural(len(material.plan.seeds), "seed")
    clips = {r.run.fold: r.metrics["num_clips"] for r in results if r.metrics is not None}
    scored = f", each scored on {_clips(clips)}" if clips else ""
    return (
        f'<p class="lead">{finished} of {plural(len(results), "run")} finished{scored}; '
        f"{seeds}.</p>"
    )


def _clips(of_folds: Mapping[str, int]) -> str:
    """Fold -> number of validation clips, in words."""
    counts = of_folds.values()
    if len(of_folds) == 1:
        return plural(sum(counts), "clip")
    return (
        f"one of {len(of_folds)} folds with {min(counts)} to {max(counts)} clips, {sum(counts)} "
        "together"
    )


def _failed(results: Sequence[RunResult]) -> str:
    failed = [result for result in results if result.status == "failed"]
    return "".join(note(f"{result.run.name} failed: {result.reason}") for result in failed)


def _methods(material: Material) -> str:
    cells = material.entries()
    if not cells:
        return ""
    header, kinds = _head(material)
    rows = [_row(cell, escape(cell.cell.entry), material) for cell in cells]
    return (
        "<h2>What does each method train, cost and reach?</h2>"
        + table(header, rows, kinds=kinds)
        + f'<p class="small">{_legend(material)}</p>'
    )


def _every_cell(material: Material) -> str:
    others = [
        (cell, material.cells[name])
        for name, cell in material.plan.cells.items()
        if cell.setting and name in material.cells
    ]
    if not others:
        return ""
    header, kinds = _head(material)
    rows = [_row(result, escape(_described(cell)), material) for cell, result in others]
    header[0] = "run"
    return "<h2>What came of every other run?</h2>" + table(header, rows, kinds=kinds)


def _described(cell: Cell) -> str:
    return f"{cell.entry}, {cell.setting} {cell.value}"


Column = tuple[str, Callable[[CellResult], str]]


def _columns(material: Material) -> list[Column]:
    def of(name: str, say: Callable[[float], str]) -> Callable[[CellResult], str]:
        return lambda cell: say(cell.mean[name]) if name in cell.mean else "not measured"

    groups = [(group, of(score_of(group), percent)) for group in material.groups]
    # What was reached comes first: on a narrow page, costs are what has to be scrolled to.
    return [
        (material.score, _score),
        ("95% interval", _interval),
        ("spread", _spread),
        *([("spread of folds", _fold_spread)] if len(material.plan.folds) > 1 else []),
        ("n", lambda cell: str(cell.n)),
        *groups,
        ("sees order", lambda cell: sees_order(cell.cell)),
        ("trained", of("num_trained", lambda x: f"{x:,.0f}")),
        ("file", of("adapter_bytes", size)),
        ("s per epoch", of("seconds_per_epoch", lambda x: f"{x:.1f}")),
        ("training", of("seconds", duration)),
        ("peak memory", of("peak_memory_bytes", size)),
    ]


def _head(material: Material) -> tuple[list[str], list[str]]:
    columns = _columns(material)
    return ["method", "epochs", *(name for name, _ in columns)], ["", *["num"] * (len(columns) + 1)]


def _row(cell: CellResult, name: str, material: Material) -> list[str]:
    cells = [say(cell) for _, say in _columns(material)]
    return [name, str(cell.cell.recipe.train.epochs), *map(escape, cells)]


def _score(cell: CellResult) -> str:
    return percent(cell.mean[SCORE]) if SCORE in cell.mean else "undefined"


def _interval(cell: CellResult) -> str:
    if cell.interval is None:
        return "-"
    return f"{percent(cell.interval[0])} to {percent(cell.interval[1])}"


def _spread(cell: CellResult) -> str:
    return percent(cell.spread[SCORE]) if SCORE in cell.spread else "-"


def _fold_spread(cell: CellResult) -> str:
    return "-" if cell.fold_spread is None else percent(cell.fold_spread)


def _legend(material: Material) -> str:
    folds = (
        f"{material.score} of a seed is that of the validation clips of all folds together; the "
        "spread of folds is the standard deviation of the folds' own. "
    )
    return escape(
        f"{material.score} is the mean over n seeds; spread is their standard deviation; the "
        "interval is Wilson's for a share of the validation clips, and says nothing about seeds. "
        f"{folds if len(material.plan.folds) > 1 else ''}Times are those of this machine, memory "
        "is the most that a run's process (or its GPU) held."
    )


def _figure(drawn: Drawn, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    bars = (
        "Bars are the wider of one standard deviation over seeds and the 95% interval over clips."
    )
    files = f"Files: {path.name}, {path.with_suffix('.png').name}."
    return (
        f"<h2>{escape(drawn.question)}</h2>"
        f'<figure class="card" style="background:#fff"><img alt="{escape(drawn.question)}" '
        f'style="display:block;width:100%;height:auto" src="data:image/svg+xml;base64,{data}">'
        f'</figure><p class="small">{escape(f"{drawn.note} {bars} {files}")}</p>'
    )


def _cost(cost: Cost, results: Sequence[RunResult]) -> str:
    text = cost_text(cost)
    unknown = [r for r in results if r.status == "finished" and r.run.name not in cost.runs]
    if unknown:
        text += f" The time of {plural(len(unknown), 'run')} is not known."
    return f"<h2>What did the study cost?</h2><p>{escape(text)}</p>"


def cost_text(cost: Cost) -> str:
    """Measured and estimated time in two sentences."""
    text = (
        f"{duration(cost.measured)} in all runs together, {duration(cost.wall)} by the clock, "
        "as measured."
    )
    if cost.estimate is not None:
        text += (
            f" {duration(cost.estimate)} in all runs together was the estimate after the first "
            f"one, {cost.estimated_from}."
        )
    return text


def _yaml(text: str) -> str:
    return f"<h2>What was run?</h2><pre>{escape(text)}</pre>"


def summary_rows(material: Material) -> list[dict[str, str]]:
    """A row per finished cell, for a terminal."""
    names = [name for name, _ in _columns(material)]
    return [
        {
            "run": name,
            **dict(zip(names, (say(cell) for _, say in _columns(material)), strict=True)),
        }
        for name, cell in material.cells.items()
    ]
