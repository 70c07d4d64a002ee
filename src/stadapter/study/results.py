"""What the runs of a study came to: a row per run; per cell mean, spread and n over its seeds."""

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stadapter.atomic import atomic_path, write_text
from stadapter.checkpoint import TENSORS
from stadapter.evaluate import read_predictions
from stadapter.run import RunFolder
from stadapter.study.plan import Cell, Plan, Series, StudyRun
from stadapter.tasks import TASKS, wilson_interval

COSTS = (
    "num_trained",
    "num_parameters",
    "adapter_bytes",
    "seconds",
    "seconds_per_epoch",
    "clips_per_second",
    "peak_memory_bytes",
)
"""Entries of metrics.json's `training` that become columns: counts, bytes and seconds."""
SCORE = "score"
"""Column of the task's headline number."""


def sees_order(cell: Cell) -> str:
    """Whether the order of a clip's frames can change what the method says: yes or no."""
    return "yes" if cell.recipe.method.sees_order else "no"


def score_of(group: str) -> str:
    """Column of the headline number over the clips of a group of classes."""
    return f"{SCORE}:{group}"


@dataclass(frozen=True)
class RunResult:
    """A run, and what is known of it."""

    run: StudyRun
    metrics: Mapping[str, Any] | None = None
    """Its metrics.json; None if it has not finished."""
    numbers: Mapping[str, float] | None = None
    """Column -> value of a finished run."""
    reason: str | None = None
    """Why it failed."""

    @property
    def status(self) -> str:
        """ "finished", "failed" or "not run"."""
        if self.numbers is not None:
            return "finished"
        return "not run" if self.reason is None else "failed"


@dataclass(frozen=True)
class CellResult:
    """A cell over the seeds that have finished."""

    cell: Cell
    n: int
    """Finished runs."""
    mean: Mapping[str, float]
    """Column -> mean over the runs."""
    spread: Mapping[str, float]
    """Column -> standard deviation over the runs, from two runs on."""
    interval: tuple[float, float] | None
    """Wilson's 95% interval of the mean score as a share of the validation clips; None where the
    score is no share of clips."""


@dataclass(frozen=True)
class Material:
    """What figures and tables show."""

    plan: Plan
    cells: Mapping[str, CellResult]
    """Finished cells by name."""
    groups: Sequence[str]
    """Groups of classes that are scored by themselves."""
    score: str
    """Title of the headline number, such as "Top-1"."""
    bounds: Mapping[str, float]
    """Group -> what a method that is blind to order cannot exceed on it."""

    same_steps: bool
    """Whether fractions of the clips make as many steps as all of them."""

    def found(self, series: Series) -> list[tuple[str, CellResult]]:
        """Value and result of the cells of a series that have finished."""
        return [(v, self.cells[c.name]) for v, c in series.items() if c.name in self.cells]

    def style(self, entry: str) -> int:
        """Number of an entry's colour and marker, the same in all figures."""
        return [cell.entry for cell in self.plan.entries].index(entry)

    def entries(self) -> list[CellResult]:
        """Finished entries of the study, in its order."""
        return [self.cells[c.name] for c in self.plan.entries if c.name in self.cells]


def read_metrics(folder: RunFolder) -> dict[str, Any] | None:
    """The metrics of a finished run; None if it has not finished or its file is damaged."""
    try:
        content = json.loads(folder.metrics.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and "label_space" in content else None


def headline(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Name in metrics.json and title of the number by which runs are compared."""
    return next(iter(TASKS[metrics["label_space"]["task"]].numbers.items()))


def run_result(
    run: StudyRun,
    folder: RunFolder,
    groups: Mapping[str, Sequence[str]],
    reason: str | None = None,
) -> RunResult:
    """What a run folder says."""
    metrics = read_metrics(folder)
    if metrics is None:
        return RunResult(run, reason=reason)
    numbers: dict[str, float] = {}
    score = metrics[headline(metrics)[0]]
    if score is not None:
        numbers[SCORE] = score
    if groups and folder.predictions.is_file():
        clips = read_predictions(folder.predictions)
        for group, classes in groups.items():
            correct = [int(clip["correct"]) for clip in clips if clip["label"] in classes]
            if correct:
                numbers[score_of(group)] = statistics.fmean(correct)
    training = metrics.get("training", {})
    if (folder.path / TENSORS).is_file():
        numbers["adapter_bytes"] = (folder.path / TENSORS).stat().st_size
    numbers |= {name: training[name] for name in COSTS if training.get(name) is not None}
    return RunResult(run, metrics, numbers)


def cell_results(plan: Plan, results: Iterable[RunResult]) -> dict[str, CellResult]:
    """Name of each cell with a finished run -> mean, spread and n."""
    finished: dict[str, list[RunResult]] = {name: [] for name in plan.cells}
    for result in results:
        if result.numbers is not None:
            finished[result.run.cell.name].append(result)
    return {name: _cell(plan.cells[name], runs) for name, runs in finished.items() if runs}


def _cell(cell: Cell, runs: Sequence[RunResult]) -> CellResult:
    columns: dict[str, list[float]] = {}
    for run in runs:
        for name, value in (run.numbers or {}).items():
            columns.setdefault(name, []).append(value)
    whole = {name: values for name, values in columns.items() if len(values) == len(runs)}
    mean = {name: statistics.fmean(values) for name, values in whole.items()}
    metrics = runs[0].metrics
    assert metrics is not None
    interval = None
    if f"{headline(metrics)[0]}_interval95" in metrics and SCORE in mean:
        interval = wilson_interval(mean[SCORE], metrics["num_clips"])
    return CellResult(
        cell=cell,
        n=len(runs),
        mean=mean,
        spread={name: statistics.stdev(v) for name, v in whole.items() if len(runs) > 1},
        interval=interval,
    )


# -- files -----------------------------------------------------------------------------------------


def write_tables(
    out: Path, plan: Plan, results: Sequence[RunResult], groups: Iterable[str]
) -> list[Path]:
    """Write results.csv (a row per cell), runs.csv (a row per run) and, where pyarrow is there,
    results.parquet; returns their paths."""
    columns = [SCORE, *map(score_of, groups), *COSTS]
    cells = cell_results(plan, results)
    rows = [_cell_row(plan.cells[name], cells.get(name), columns) for name in plan.cells]
    written = [
        _write_csv(out / "results.csv", rows),
        _write_csv(out / "runs.csv", [_run_row(result, columns) for result in results]),
    ]
    parquet = _parquet_writer()
    if parquet is not None:
        with atomic_path(out / "results.parquet") as temporary:
            parquet(rows, temporary)
        written.append(out / "results.parquet")
    return written


def _what(cell: Cell) -> dict[str, Any]:
    return {
        "entry": cell.entry,
        "method": cell.recipe.method.name,
        "sees_order": sees_order(cell),
        "setting": cell.setting,
        "value": cell.value,
        "train_fraction": cell.train_fraction,
        "epochs": cell.recipe.train.epochs,
    }


def _cell_row(cell: Cell, result: CellResult | None, columns: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": cell.name, **_what(cell), "n": result.n if result else 0}
    mean, spread = (result.mean, result.spread) if result else ({}, {})
    low, high = (result and result.interval) or (None, None)
    for name in columns:
        row[f"{name}_mean"], row[f"{name}_std"] = mean.get(name), spread.get(name)
    return row | {f"{SCORE}_low95": low, f"{SCORE}_high95": high}


def _run_row(result: RunResult, columns: Sequence[str]) -> dict[str, Any]:
    numbers = result.numbers or {}
    metrics = result.metrics or {}
    return {
        "run": result.run.name,
        **_what(result.run.cell),
        "seed": result.run.seed,
        "status": result.status,
        "reason": result.reason or "",
        **{name: numbers.get(name) for name in columns},
        "num_clips": metrics.get("num_clips"),
        "num_broken": metrics.get("num_broken"),
        "clip_list_sha256": metrics.get("clip_list_sha256", ""),
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # None is an empty field
    write_text(path, text.getvalue())
    return path


def _parquet_writer() -> Callable[[list[dict[str, Any]], Path], None] | None:
    """What writes rows as Parquet; None without pyarrow."""
    try:
        import pyarrow
        from pyarrow.parquet import write_table
    except ImportError:
        return None

    def write(rows: list[dict[str, Any]], path: Path) -> None:
        text = ("cell", "entry", "method", "sees_order", "setting", "value")
        kinds = [
            (name, pyarrow.string() if name in text else pyarrow.float64()) for name in rows[0]
        ]
        write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(kinds)), path)

    return write
