"""A study from its plan to its page: what is finished is used again, the rest is run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stadapter.atomic import write_text
from stadapter.data import Collection, check_trainable, load_collection
from stadapter.data.two_cues import TwoCuesConfig, write_two_cues
from stadapter.device import default_num_workers
from stadapter.interrupt import Terminated, caught_signals
from stadapter.progress import console, progress_bar
from stadapter.recipe import changed_settings
from stadapter.report.page import duration
from stadapter.run import RunFolder
from stadapter.study.child import Task
from stadapter.study.config import StudyConfig
from stadapter.study.cost import Cost
from stadapter.study.figures import Drawn, draw_figures, require_matplotlib
from stadapter.study.lock import locked
from stadapter.study.page import cost_text, summary_rows, write_page
from stadapter.study.plan import ParseRecipe, Plan, StudyRun, make_plan
from stadapter.study.pool import num_slots, run_tasks
from stadapter.study.results import (
    Material,
    RunResult,
    cell_results,
    headline,
    read_metrics,
    run_result,
    write_tables,
)
from stadapter.tables import table_text

ORDER_ONLY = "order-only"
BLIND_BOUND = 0.5
"""What a model that is blind to order cannot exceed on twins: `data.order_only`."""


@dataclass(frozen=True)
class StudyFolder:
    """Names of what a study leaves behind."""

    path: Path

    @property
    def study(self) -> Path:
        """The YAML of the last call."""
        return self.path / "study.yaml"

    @property
    def collection(self) -> Path:
        """The generated clips."""
        return self.path / "collection"

    @property
    def cost(self) -> Path:
        """Estimated and measured times."""
        return self.path / "cost.json"

    @property
    def figures(self) -> Path:
        """SVG and PNG files."""
        return self.path / "figures"

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.path / "study.html"

    def run(self, run: StudyRun) -> RunFolder:
        """A run folder as `train` writes it."""
        return RunFolder(self.path / "runs" / run.name)

    def log(self, run: StudyRun) -> Path:
        """What the run's process printed."""
        return self.path / "logs" / f"{run.name}.log"


@dataclass(frozen=True)
class Outcome:
    """What `run_study` leaves."""

    results: Sequence[RunResult]
    """Every run, in the plan's order."""
    material: Material
    """What tables and figures show."""
    cost: Cost
    page: Path
    tables: Sequence[Path]

    @property
    def failed(self) -> list[RunResult]:
        """Runs that did not finish."""
        return [result for result in self.results if result.status != "finished"]

    def summary(self) -> str:
        """What a terminal shows."""
        lines = [table_text(rows)] if (rows := summary_rows(self.material)) else []
        lines += [f"failed: {result.run.name}: {result.reason}" for result in self.failed]
        lines.append(f"cost: {cost_text(self.cost)}")
        lines.append("written: " + ", ".join(str(path) for path in (self.page, *self.tables)))
        return "\n".join(lines)


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    text: str,
    parse: ParseRecipe,
    resume: bool = False,
) -> Outcome:
    """Run what is not finished, and write tables, figures and page into `out`.

    After Ctrl-C or SIGTERM they are written of what has finished until then.

    Args:
        study: what to run.
        out: folder to write.
        text: the YAML, to be kept.
        parse: settings of a recipe -> recipe.
        resume: go on with what `out` holds; runs that are finished are not repeated.

    Raises:
        ValueError, FileNotFoundError: a study that cannot be run, or whose finished runs were made
            with other settings or clips.
        FileExistsError: `out` holds a study and `resume` was not asked for.
        ImportError: matplotlib is missing.
    """
    require_matplotlib()
    folder = StudyFolder(out)
    plan = make_plan(study, parse)
    if folder.study.exists() and not resume:
        raise FileExistsError(
            f"{out} already holds a study; go on with --resume, or choose another --out"
        )
    if resume and not folder.study.exists():
        raise FileNotFoundError(f"{out} holds no study to resume; leave out --resume")
    if not study.data and study.two_cues is None:
        raise ValueError("the study names no clips: give --data, or `data` or `two_cues` in it")
    if study.data:  # before anything is written
        _load(study, plan)
    (out / "runs").mkdir(parents=True, exist_ok=True)
    with locked(out / "lock") as lock:
        write_text(folder.study, text)
        groups = _groups(study)
        if not study.data:
            study = replace(study, data=(str(_render(folder.collection, study.two_cues)),))
        collections = _load(study, plan)
        _check_begun(folder, plan)
        _check_same_clips(study, folder, plan, collections)
        reasons: dict[str, str] = {}
        try:
            with caught_signals():
                _train(study, folder, plan, lock, reasons)
        except (KeyboardInterrupt, Terminated):
            _write(study, folder, plan, groups, reasons)  # of what is there
            raise
        return _write(study, folder, plan, groups, reasons)


def _render(folder: Path, config: TwoCuesConfig | None) -> Path:
    assert config is not None
    with progress_bar("rendering clips", config.num_clips) as bar:
        return write_two_cues(
            folder, config, progress=bar.advance_to, num_workers=default_num_workers()
        )


def _load(study: StudyConfig, plan: Plan) -> dict[str, Collection]:
    """The clips of each fold, as the first seed splits them; refuses what no run could be made
    of."""
    collections = {}
    for fold, data in study.folds.items():
        collections[fold] = load_collection(data, study.reading, seed=plan.seeds[0])
        check_trainable(collections[fold], data)
    _check_groups(_groups(study), next(iter(collections.values())))
    if len(collections) > 1:
        _check_folds(collections)
    return collections


def _check_folds(collections: Mapping[str, Collection]) -> None:
    """Refuse folds whose scores would not add up to one of all clips."""
    first = next(iter(collections))
    validated: dict[tuple[str, ...], str] = {}
    for fold, collection in collections.items():
        if collection.made_split:
            raise ValueError(
                f"fold {fold} has no split of its own; its list needs the column split"
            )
        if collection.space != collections[first].space:
            raise ValueError(f"folds {first} and {fold} do not have the same classes")
        clips = collection.splits["val"]
        for clip in zip(clips.paths, map(str, clips.starts), map(str, clips.ends), strict=True):
            if clip in validated:
                raise ValueError(
                    f"{clip[0]} is a validation clip of the folds {validated[clip]} and {fold}; "
                    "each clip is scored once: give such splits as studies of their own"
                )
            validated[clip] = fold


def _groups(study: StudyConfig) -> dict[str, tuple[str, ...]]:
    """Classes to score by themselves."""
    if study.two_cues is not None and not study.class_groups:
        return {name: tuple(classes) for name, classes in study.two_cues.class_groups.items()}
    return dict(study.class_groups)


def _check_groups(groups: Mapping[str, Sequence[str]], collection: Collection) -> None:
    space = collection.space
    if groups and space.task != "single_label":
        raise ValueError("class_groups are for clips of one class each")
    for name, classes in groups.items():
        unknown = [c for c in classes if c not in space.class_names]
        if unknown:
            raise ValueError(
                f"class_groups.{name}: {unknown[0]!r} is no class of the collection; they are "
                f"{', '.join(space.class_names)}"
            )


def _check_begun(folder: StudyFolder, plan: Plan) -> None:
    """Refuse to mix runs of different settings under one name."""
    for run in plan.runs:
        if not folder.run(run).recipe.is_file():
            continue
        changed = changed_settings(run.recipe, folder.run(run))
        if changed:
            raise ValueError(
                f"{folder.run(run).path} was made with other settings ({'; '.join(changed)}); give "
                "the entry another name in the study, or delete that folder"
            )


def _check_same_clips(
    study: StudyConfig, folder: StudyFolder, plan: Plan, collections: Mapping[str, Collection]
) -> None:
    """Refuse to mix scores on different clips."""
    hashes = {
        (fold, plan.seeds[0]): collection.splits["val"].list_hash()
        for fold, collection in collections.items()
    }
    for run in plan.runs:
        metrics = read_metrics(folder.run(run))
        if metrics is None or "clip_list_sha256" not in metrics:
            continue
        data, place = study.folds[run.fold], (run.fold, run.seed)
        if place not in hashes:  # a split that is given is the same for all seeds
            collection = collections[run.fold]
            if collection.made_split:
                collection = load_collection(data, study.reading, seed=run.seed)
            hashes[place] = collection.splits["val"].list_hash()
        if metrics["clip_list_sha256"] != hashes[place]:
            raise ValueError(
                f"{folder.run(run).path} was scored on other clips than the validation clips of "
                f"{data} now; choose another --out, or delete that folder"
            )


def _train(
    study: StudyConfig,
    folder: StudyFolder,
    plan: Plan,
    lock: int,
    reasons: dict[str, str],
) -> None:
    """Train what is not finished; adds to `reasons` why runs failed, by name."""
    cost = Cost.load(folder.cost)
    finished = [run for run in plan.runs if read_metrics(folder.run(run)) is not None]
    todo = [run for run in plan.runs if run not in finished]
    device = plan.runs[0].recipe.train.device
    count = num_slots(device, study.num_processes)
    console.print(
        f"{len(plan.runs)} runs, {len(finished)} of them finished before; {count} at a time"
    )
    _say_cost(cost, plan, finished, todo, count)
    begun, wall = time.monotonic(), cost.wall
    tasks = [(run, _task(study, folder, run), folder.log(run)) for run in todo]
    with progress_bar("runs", len(plan.runs), completed=len(finished)) as bar:
        for ended in run_tasks(tasks, device=device, num_processes=count, lock=lock):
            run = ended.key
            cost.add(run, ended.seconds)
            cost.wall = wall + time.monotonic() - begun
            todo.remove(run)
            reason = ended.reason
            if reason is None and read_metrics(folder.run(run)) is None:
                reason = "ended without metrics.json"
            if reason is None:
                finished.append(run)
                if cost.estimate is None:
                    cost.estimate = cost.expected(plan.runs, finished)
                    cost.estimated_from = run.name
            else:
                reasons[run.name] = reason
            cost.save(folder.cost)
            bar.advance()
            _say_ended(run, ended.seconds, reason, read_metrics(folder.run(run)))
            _say_cost(cost, plan, finished, todo, count)


def _task(study: StudyConfig, folder: StudyFolder, run: StudyRun) -> Task:
    reading = study.reading
    if run.cell.train_fraction != 1:
        reading = replace(reading, train_fraction=run.cell.train_fraction)
    return Task(run.recipe, study.folds[run.fold], reading, folder.run(run).path)


def _say_ended(
    run: StudyRun, seconds: float, reason: str | None, metrics: Mapping[str, object] | None
) -> None:
    text = f"{run.name}: failed: {reason}"
    if reason is None and metrics is not None:
        name, title = headline(metrics)
        score = metrics[name]
        text = f"{run.name}: {title} "
        text += f"{score:.1%}" if isinstance(score, float) else "undefined"
    console.print(f"{text} ({duration(seconds)})", highlight=False, markup=False)


def _say_cost(
    cost: Cost, plan: Plan, finished: Sequence[StudyRun], todo: Sequence[StudyRun], count: int
) -> None:
    left = cost.expected(todo, finished)
    if todo and left is not None:
        console.print(
            f"  {len(todo)} of {len(plan.runs)} runs are left, about {duration(left / count)}",
            highlight=False,
        )


def _write(
    study: StudyConfig,
    folder: StudyFolder,
    plan: Plan,
    groups: Mapping[str, Sequence[str]],
    reasons: Mapping[str, str],
) -> Outcome:
    results = [run_result(run, folder.run(run), groups, reasons.get(run.name)) for run in plan.runs]
    tables = write_tables(folder.path, plan, results, groups)
    cost = Cost.load(folder.cost)
    cells = cell_results(plan, results)
    metrics = next((r.metrics for r in results if r.metrics is not None), None)
    figures: list[Drawn] = []
    bounds = {} if study.class_groups else {ORDER_ONLY: BLIND_BOUND}
    material = Material(
        plan=plan,
        cells=cells,
        groups=list(groups),
        score=headline(metrics)[1] if metrics else "",
        bounds={group: bound for group, bound in bounds.items() if group in groups},
        same_steps=study.fractions is not None and study.fractions.same_steps,
    )
    if cells:
        figures = draw_figures(folder.figures, material)
    write_page(
        folder.page,
        title=study.title,
        material=material,
        results=results,
        figures=[(drawn, folder.figures / f"{drawn.name}.svg") for drawn in figures],
        cost=cost,
        text=folder.study.read_text(encoding="utf-8"),
    )
    return Outcome(results, material, cost, folder.page, tables)
