"""The report: headline, what compares the runs, then each run by itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stadapter.atomic import write_text
from stadapter.data import LabelSpace
from stadapter.data.labels import VOCABULARIES
from stadapter.report.charts import Series, legend, line_chart
from stadapter.report.clips import class_examples
from stadapter.report.details import run_details
from stadapter.report.frames import Frames
from stadapter.report.page import (
    bar,
    document,
    duration,
    escape,
    note,
    percent,
    plural,
    size,
    table,
    tile,
)
from stadapter.report.record import Point, RunRecord, best_run, number, read_run
from stadapter.run import RunFolder


def write_report(
    out: Path,
    runs: Mapping[str, RunFolder],
    *,
    title: str,
    results: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the report atomically and return its path.

    Args:
        out: the HTML file.
        runs: name to show -> run folder. What a folder lacks is said in the report.
        title: its heading.
        results: rows of a table that compares methods, with `method`, `trained_parameters`,
            `total_parameters`, `adapter_bytes`, `top1`, `seconds`; other keys become columns.

    Raises:
        ValueError: no run.
        OSError: `out` cannot be written.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    records = [read_run(name, folder) for name, folder in runs.items()]
    frames = Frames()
    groups = _same_classes(records)
    sections = [
        _head(title, records, results),
        _results_table(results),
        _curves(records),
        *(_class_scores(group) for group in groups),
        *(class_examples(group, frames) for group in groups),
        *(run_details(run, frames, i, alone=len(runs) == 1) for i, run in enumerate(records)),
        _versions(records),
    ]
    write_text(out, document(title, "\n".join(section for section in sections if section)))
    return out


def _same_classes(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs with scores of each class, by their classes."""
    groups: dict[LabelSpace, list[RunRecord]] = {}
    for run in records:
        if run.class_scores():
            groups.setdefault(run.space, []).append(run)
    return list(groups.values())


# -- headline --------------------------------------------------------------------------------------


def _head(title: str, records: Sequence[RunRecord], results: Sequence[Mapping[str, Any]]) -> str:
    alone = len(records) == 1
    lines = [escape(line) for line in _what_on_what(records)]
    best = best_run(records)
    tiles = [
        _score_tile(
            run,
            run.headline[1] if alone else run.name,
            "" if alone else _trained(run, results),
            best=run is best and run.score is not None,
        )
        for run in records
    ]
    if alone and best.metrics:
        tiles += _more_tiles(best, results)
    return (
        f'<h1>{escape(title)}</h1>\n<p class="lead">{"<br>".join(lines)}</p>\n'
        f'<div class="tiles">{"".join(tiles)}</div>' + ("" if alone else _links(records, results))
    )


def _what_on_what(records: Sequence[RunRecord]) -> list[str]:
    """A line for each backbone and collection: the methods trained on it."""
    methods: dict[str, list[str]] = {}
    for run in records:
        if run.config is None:
            methods.setdefault("(no adapter found)", []).append(run.name)
            continue
        weights = "" if run.config.backbone_pretrained else " with random weights"
        first = run.recipe.partition("\n")[0]
        data = f" from {first[8:]}" if first.startswith("# data: ") else ""
        classes = run.config.info.space.summary()
        task = f"on backbone {run.config.backbone_id}{weights}, {classes}{data}"
        name = run.config.method.name
        alias = "" if len(records) == 1 or run.name == name else f"{run.name}: "
        methods.setdefault(task, []).append(f"{alias}{name}")
    return [f"{', '.join(names)} {task}" for task, names in methods.items()]


def _score_tile(run: RunRecord, name: str, more: str, *, best: bool) -> str:
    if run.score is None:
        undefined = run.metrics.get(run.headline[0], "") is None
        reason = "not defined on these clips" if undefined else "no metrics.json that can be read"
        return tile(name, "not scored", reason)
    lines = [_clips_scored(run), more]
    interval = run.metrics.get(f"{run.headline[0]}_interval95")
    ends = [number(x) for x in interval] if isinstance(interval, list) else []
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        lines.insert(0, f"95% interval {percent(ends[0])} to {percent(ends[1])}")
    return tile(name, percent(run.score), "<br>".join(line for line in lines if line), best=best)


def _clips_scored(run: RunRecord) -> str:
    scored, broken = (int(number(run.metrics.get(f"num_{x}")) or 0) for x in ("clips", "broken"))
    return f"{plural(scored, 'clip')} scored, {broken:,} broken"


def _trained(run: RunRecord, results: Sequence[Mapping[str, Any]]) -> str:
    """What the method trains, out of how much where `results` knows."""
    names = [run.name] + ([run.config.method.name] if run.config else [])
    row = next((row for row in results if row.get("method") in names), {})
    trained = number(row.get("trained_parameters")) or run.num_trained
    total = number(row.get("total_parameters"))
    if trained is None:
        return ""
    share = f", {percent(trained / total)} of {total:,.0f}" if total else ""
    return f"trains {trained:,.0f} parameters{share}"


_MEANINGS = {
    "top5": "label among the five most probable",
    "mean_class": "average of the recalls",
    "micro_AP": "all pairs of clip and class ranked together",
    "micro_F1": "classes above 50%, all clips together",
    "macro_F1": "classes above 50%, average over classes",
}
"""What a number says, by how its name ends."""


def _more_tiles(run: RunRecord, results: Sequence[Mapping[str, Any]]) -> list[str]:
    tiles = []
    for key, name in list(run.task.numbers.items())[1:]:
        value = number(run.metrics.get(key))
        if value is not None:
            sub = next((text for end, text in _MEANINGS.items() if key.endswith(end)), "")
            tiles.append(tile(name, percent(value), sub))
    if run.num_trained is not None and run.file_bytes is not None:
        sub = f"in a file of {size(run.file_bytes)}<br>{_trained(run, results) if results else ''}"
        tiles.append(tile("Trained parameters", f"{run.num_trained:,}", sub))
    return tiles


def _links(records: Sequence[RunRecord], results: Sequence[Mapping[str, Any]]) -> str:
    targets = [("results", "Results")] if results else []
    targets += [("curves", "Curves"), *((f"run{i}", run.name) for i, run in enumerate(records))]
    return "<nav>" + "".join(f'<a href="#{i}">{escape(t)}</a>' for i, t in targets) + "</nav>"


# -- all runs together -----------------------------------------------------------------------------

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "top1": ("Top-1", percent),
    "trained_parameters": ("Trained parameters", lambda x: f"{x:,.0f}"),
    "share": ("Share", percent),
    "total_parameters": ("All parameters", lambda x: f"{x:,.0f}"),
    "adapter_bytes": ("Adapter file", size),
    "seconds": ("Time", duration),
}


def _results_table(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ""
    others = dict.fromkeys(key for row in results for key in row if key not in _COLUMNS)
    others.pop("method", None)
    rows = []
    for row in results:
        trained, total = (number(row.get(f"{x}_parameters")) for x in ("trained", "total"))
        known = {**row, "share": trained / total if trained is not None and total else None}
        cells = [_cell(known.get(key), write) for key, (_, write) in _COLUMNS.items()]
        cells += [_cell(row.get(key), _plain_number) for key in others]
        rows.append([escape(row.get("method", "")), *cells])
    header = ["Method", *(name for name, _ in _COLUMNS.values()), *others]
    return (
        '<h2 id="results">Results</h2><p>What each method trains of all parameters, the size of '
        "the file it saves, the top-1 accuracy it reaches, and the wall time it took.</p>"
        + table(header, rows, kinds=["", *["num"] * (len(header) - 1)])
    )


def _cell(value: Any, write: Callable[[float], str]) -> str:
    as_number = number(value)
    if as_number is not None:
        return write(as_number)
    return "-" if value is None else escape(value)


def _plain_number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def _curves(records: Sequence[RunRecord]) -> str:
    # The best run has the accent colour, as in the headline.
    others = [run for run in records if run is not best_run(records)]
    styles = {run.name: i for i, run in enumerate([best_run(records), *others])}
    loss = [Series(run.name, run.history.loss, styles[run.name]) for run in records]
    if len(records) == 1:
        loss.insert(0, Series("each step", _thinned(records[0].history.step_loss), 0, faint=True))
    val = [Series(run.name, run.history.val, styles[run.name]) for run in records]
    key = legend(val) if len(records) > 1 else ""
    steps = "; the thin line is each step" if len(records) == 1 else ""
    charts = [
        _chart(loss, f"<b>Training loss</b>, mean of each epoch at its end{steps}"),
        _chart(
            val, f"<b>{best_run(records).headline[1]} on the validation clips</b>", percent=True
        ),
    ]
    return f'<h2 id="curves">Curves</h2>{key}<div class="charts">{"".join(charts)}</div>'


def _chart(series: Sequence[Series], caption: str, *, percent: bool = False) -> str:
    drawn = [s for s in series if s.points]
    label = caption.replace("<b>", "").replace("</b>", "")
    if any(not s.faint for s in drawn):
        picture = line_chart(drawn, label=label, percent=percent)
    else:
        picture = note("The logs hold nothing to draw here.")
    missing = [s.name for s in series if not s.points and not s.faint]
    if missing and drawn:
        picture += note(f"Nothing was logged by {', '.join(missing)}.")
    return f'<figure class="card"><figcaption>{caption}</figcaption>{picture}</figure>'


def _thinned(points: Sequence[Point], most: int = 400) -> list[Point]:
    """Means of neighbouring points, so that a long run does not make a large file."""
    step = -(-len(points) // most) or 1
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _class_scores(group: Sequence[RunRecord]) -> str:
    first, scores = group[0], [run.class_scores() for run in group]
    exclusive = first.task.exclusive
    score = "Recall" if exclusive else "Average precision"
    precise = exclusive and len(group) == 1
    meaning = (
        "Recall: the share of a class's clips that are recognised as that class."
        + " Precision: the share of clips recognised as the class that are of it." * precise
        if exclusive
        else "How well the scores of a class rank its clips above the others: 100% if above all."
    )
    parts = []
    kinds = zip(VOCABULARIES[first.space.task], first.space.vocabularies, strict=True)
    for kind, names in kinds:
        if not all(kind in found for found in scores):
            continue
        many = len(names) > 30
        order = list(range(len(names)))
        if many:  # those that need a look come first; those without clips last
            values = [2.0 if value is None else value for _, value in scores[0][kind]]
            order.sort(key=values.__getitem__)
        precisions = first.precisions(kind)
        rows = [
            [
                escape(names[k]),
                f"{scores[0][kind][k][0]:,}",
                *(bar(found[kind][k][1]) for found in scores),
                *([bar(precisions[k], none="never predicted")] if precise else []),
            ]
            for k in order
        ]
        word = "class" if kind == "label" else kind
        header = [word.capitalize(), "Clips"]
        header += [run.name if len(group) > 1 else score for run in group]
        header += ["Precision"] if precise else []
        columns = ["", "num", *["bar"] * (len(group) + precise)]
        box = table(header, rows, kinds=columns, tall=many)
        first_run = f" of {escape(first.name)}" if len(group) > 1 else ""
        sorting = f" The lowest{first_run} come first." if many else ""
        parts.append(f"<h2>{score} of each {word}</h2><p>{meaning}{sorting}</p>{box}")
    return "".join(parts)


def _versions(records: Sequence[RunRecord]) -> str:
    lists: dict[str, None] = {}
    for run in records:
        versions = run.metrics.get("versions")
        if isinstance(versions, dict):
            lists[", ".join(f"{name} {value}" for name, value in versions.items())] = None
    return "".join(f'<p class="small">Scored with {escape(text)}.</p>' for text in lists)
