"""What the runs of a study came to: a row per run; per cell mean, spread and n over its seeds.

With folds, the runs of one seed on all folds are one result: its score is that of all validation
clips together, each scored once, by a model that was not trained on it.
"""

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stadapter.atomic import atomic_path, write_text
from stadapter.checkpoint import TENSORS
from stadapter.results import read_predictions
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
    clips: Mapping[str, int] = field(default_factory=dict)
    """Column that is a score -> number of clips it is of."""
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
    """A cell over the seeds that have finished on all folds."""

    cell: Cell
    n: int
    """Finished seeds."""
    mean: Mapping[str, float]
    """Column -> mean over the seeds."""
    spread: Mapping[str, float]
    """Column -> standard deviation over the seeds, from two on."""
    fold_scores: Mapping[str, float]
    """Fold -> score, mean over the seeds; of a study without folds the one of ""."""
    interval: tuple[float, float] | None
    """Wilson's 95% interval of the mean score as a share of the validation clips, of all folds
    together; None where the score is no share of clips."""

    @property
    def fold_spread(self) -> float | None:
        """Standard deviation of `fold_scores`; None for fewer than two."""
        scores = list(self.fold_scores.values())
        return statistics.stdev(scores) if len(scores) > 1 else None

    @property
    def bar(self) -> tuple[float, float]:
        """Length of an error bar below and above the mean score: the wider of the interval and one
        standard deviation over seeds, since few clips say little, however many the seeds."""
        mean, spread = self.mean[SCORE], self.spread.get(SCORE, 0.0)
        low, high = self.interval or (mean, mean)
        return max(spread, mean - low), max(spread, high - mean)


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
    scored: dict[str, int] = {}
    score = metrics[headline(metrics)[0]]
    if score is not None:
        numbers[SCORE], scored[SCORE] = score, metrics["num_clips"]
    if groups and folder.predictions.is_file():
        clips = read_predictions(folder.predictions)
        for group, classes in groups.items():
            correct = [int(clip["correct"]) for clip in clips if clip["label"] in classes]
            if correct:
                numbers[score_of(group)] = statistics.fmean(correct)
                scored[score_of(group)] = len(correct)
    training = metrics.get("training", {})
    if (folder.path / TENSORS).is_file():
        numbers["adapter_bytes"] = (folder.path / TENSORS).stat().st_size
    numbers |= {name: training[name] for name in COSTS if training.get(name) is not None}
    return RunResult(run, metrics, numbers, scored)


def cell_results(plan: Plan, results: Iterable[RunResult]) -> dict[str, CellResult]:
    """Name of each cell with a finished seed -> mean, spread and n."""
    finished: dict[str, dict[int, list[RunResult]]] = {name: {} for name in plan.cells}
    for result in results:
        if result.numbers is not None:
            finished[result.run.cell.name].setdefault(result.run.seed, []).append(result)
    cells = {}
    for name, seeds in finished.items():
        whole = [runs for runs in seeds.values() if len(runs) == len(plan.folds)]
        if whole:
            cells[name] = _cell(plan.cells[name], whole)
    return cells


def _cell(cell: Cell, seeds: Sequence[Sequence[RunResult]]) -> CellResult:
    numbers = _in_all([_of_all_folds(runs) for runs in seeds])
    mean = {name: statistics.fmean(values) for name, values in numbers.items()}
    of_folds: dict[str, list[float]] = {}
    for run in (run for runs in seeds for run in runs):
        if run.numbers is not None and SCORE in run.numbers:
            of_folds.setdefault(run.run.fold, []).append(run.numbers[SCORE])
    metrics = seeds[0][0].metrics
    assert metrics is not None
    interval = None
    if f"{headline(metrics)[0]}_interval95" in metrics and SCORE in mean:
        interval = wilson_interval(mean[SCORE], sum(run.clips[SCORE] for run in seeds[0]))
    return CellResult(
        cell=cell,
        n=len(seeds),
        mean=mean,
        spread={name: statistics.stdev(v) for name, v in numbers.items() if len(seeds) > 1},
        fold_scores={fold: statistics.fmean(values) for fold, values in of_folds.items()},
        interval=interval,
    )


def _of_all_folds(runs: Sequence[RunResult]) -> dict[str, float]:
    """One seed's numbers: scores weigh folds by their clips, costs are the mean of a run."""
    numbers = {}
    for name in dict.fromkeys(name for run in runs for name in run.numbers or {}):
        parts = [
            (run.numbers[name], run.clips.get(name, 1))
            for run in runs
            if run.numbers is not None and name in run.numbers
        ]
        of_group = name.startswith(score_of(""))  # of which a fold may have no clips
        if of_group or len(parts) == len(runs):
            total = sum(weight for _, weight in parts)
            numbers[name] = sum(value * weight for value, weight in parts) / total
    return numbers


def _in_all(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Column -> its values, of the columns that every row has."""
    return {name: [row[name] for row in rows] for name in rows[0] if all(name in r for r in rows)}


# -- files -----------------------------------------------------------------------------------------


def write_tables(
    out: Path, plan: Plan, results: Sequence[RunResult], groups: Iterable[str]
) -> list[Path]:
    """Write results.csv (a row per cell), runs.csv (a row per run) and, where pyarrow is there,
    results.parquet; returns their paths."""
    columns = [SCORE, *map(score_of, groups), *COSTS]
    cells = cell_results(plan, results)
    rows = [_cell_row(plan, name, cells.get(name), columns) for name in plan.cells]
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


def _cell_row(
    plan: Plan, name: str, result: CellResult | None, columns: Sequence[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": name, **_what(plan.cells[name]), "n": result.n if result else 0}
    mean, spread = (result.mean, result.spread) if result else ({}, {})
    low, high = (result and result.interval) or (None, None)
    for name in columns:
        row[f"{name}_mean"], row[f"{name}_std"] = mean.get(name), spread.get(name)
    row |= {f"{SCORE}_low95": low, f"{SCORE}_high95": high}
    if len(plan.folds) > 1:
        row[f"{SCORE}_fold_std"] = result.fold_spread if result else None
        for fold in plan.folds:
            row[f"{SCORE}_fold:{fold}"] = result.fold_scores.get(fold) if result else None
    return row


def _run_row(result: RunResult, columns: Sequence[str]) -> dict[str, Any]:
    numbers = result.numbers or {}
    metrics = result.metrics or {}
    return {
        "run": result.run.name,
        **_what(result.run.cell),
        "fold": result.run.fold,
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
