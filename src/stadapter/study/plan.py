"""From a study to its runs: which there are, what they are called, what belongs into one figure.

A cell is one combination of settings; with each seed, on each fold, it is a run. A cell that
several parts of the study name (the entry itself, the largest fraction, a value of an ablation that
is the entry's own) exists once. Names say what a run is and nothing about the rest of the study, so
a study that grows finds its finished runs again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import quote

from stadapter.methods import METHODS
from stadapter.recipe import Recipe
from stadapter.study.config import Settings, StudyConfig, Sweep

ParseRecipe = Callable[[Settings], Recipe]
"""Settings -> recipe; raises ValueError with what is wrong with them."""


@dataclass(frozen=True)
class Cell:
    """One combination of settings, without seed and fold."""

    entry: str
    """Name of its entry in `methods`."""
    recipe: Recipe
    """Every setting; its seed is of no account."""
    train_fraction: float = 1.0
    """Share of the training clips."""
    setting: str = ""
    """What differs from the entry; "" for the entry itself."""
    value: str = ""
    """The value of it, as text."""

    @property
    def name(self) -> str:
        """Unique within any study, and fit for a folder."""
        if not self.setting:
            return self.entry
        return f"{self.entry}_{self.setting}={quote(self.value, safe='+,')}"

    @property
    def work(self) -> float:
        """Passes over the training clips, to compare costs."""
        return self.recipe.train.epochs * self.train_fraction


@dataclass(frozen=True)
class StudyRun:
    """One training run."""

    cell: Cell
    seed: int
    fold: str = ""
    """Which of `StudyConfig.folds`."""

    @property
    def name(self) -> str:
        """Its folder's name."""
        fold = f"_fold={self.fold}" if self.fold else ""
        return f"{self.cell.name}{fold}_seed={self.seed}"

    @property
    def recipe(self) -> Recipe:
        """With the seed."""
        return replace(self.cell.recipe, train=replace(self.cell.recipe.train, seed=self.seed))


Series = dict[str, Cell]
"""Value as text -> cell, in the order of the study."""


@dataclass
class Plan:
    """All cells, and which of them each figure compares."""

    cells: dict[str, Cell] = field(default_factory=dict)
    """Name -> cell."""
    entries: list[Cell] = field(default_factory=list)
    """The entries of `methods` themselves."""
    fractions: dict[str, Series] = field(default_factory=dict)
    """Entry -> its fractions of the training clips, ascending."""
    epochs: dict[str, Series] = field(default_factory=dict)
    """Entry -> its lengths of training, ascending."""
    ablations: dict[str, Series] = field(default_factory=dict)
    """Setting -> its values."""
    seeds: tuple[int, ...] = (0,)
    folds: tuple[str, ...] = ("",)

    @property
    def runs(self) -> list[StudyRun]:
        """Every run; seed by seed, so that a stopped study has whole tables of fewer seeds."""
        return [
            StudyRun(cell, seed, fold)
            for seed in self.seeds
            for fold in self.folds
            for cell in self.cells.values()
        ]

    def add(self, cell: Cell) -> Cell:
        """The cell, or the one with the same settings that is there already."""
        for known in self.cells.values():
            if (known.entry, known.train_fraction) == (cell.entry, cell.train_fraction) and (
                known.recipe == cell.recipe
            ):
                return known
        self.cells[cell.name] = cell
        return cell


def make_plan(study: StudyConfig, parse: ParseRecipe) -> Plan:
    """Which runs the study consists of.

    Raises:
        ValueError: settings that no recipe has, or values that make no sense.
    """
    plan = Plan(seeds=study.seeds, folds=tuple(study.folds) or ("",))
    entries = {}
    for name, settings in study.methods.items():
        merged = _entry_settings(study.recipe, settings, name)
        recipe = _parse(parse, merged, f"methods.{name}")
        entries[name] = (merged, plan.add(Cell(name, recipe)))
        plan.entries.append(entries[name][1])
    for name, settings in _other_methods(study, plan):
        recipe = _parse(parse, settings, f"every_method ({name})")
        plan.entries.append(plan.add(Cell(name, recipe)))
    for name, base in _swept(study.fractions, entries):
        assert study.fractions is not None
        same_steps = study.fractions.same_steps
        cells = [
            plan.add(_fraction(base, value, same_steps=same_steps))
            for value in _with(study.fractions, 1.0)
        ]
        plan.fractions[name] = {f"{cell.train_fraction:g}": cell for cell in cells}
    for name, base in _swept(study.epochs, entries):
        train = base.recipe.train
        cells = [
            plan.add(
                replace(
                    base,
                    recipe=replace(base.recipe, train=replace(train, epochs=value)),
                    setting="epochs",
                    value=str(value),
                )
            )
            for value in _with(study.epochs, train.epochs)
        ]
        plan.epochs[name] = {str(cell.recipe.train.epochs): cell for cell in cells}
    if study.ablations is not None:
        merged, base = entries[study.ablations.of]
        for setting, values in study.ablations.vary.items():
            plan.ablations[setting] = _ablation(plan, parse, merged, base, setting, values)
    return plan


def _other_methods(study: StudyConfig, plan: Plan) -> list[tuple[str, Settings]]:
    """Name and settings of the methods that no entry uses, if the study wants them."""
    if study.every_method is None:
        return []
    used = {cell.recipe.method.name for cell in plan.entries}
    names = [name for name in METHODS if name not in used and name not in study.every_method.but]
    for name in names:
        if name in study.methods:
            raise ValueError(f"methods.{name} is another method; give that entry another name")
    given = study.every_method.settings
    found = []
    for name in names:
        known = {f.name for f in fields(METHODS[name])}
        own = {k: v for k, v in given.get("method", {}).items() if k in known}
        changes = {**given, "method": {"name": name, **own}}
        base = {key: value for key, value in study.recipe.items() if key != "method"}
        found.append((name, _merged(base, changes)))
    return found


def _fraction(base: Cell, value: float, *, same_steps: bool) -> Cell:
    """The cell that trains on a share of the clips, for the same epochs or the same steps."""
    train = base.recipe.train
    if same_steps:
        train = replace(
            train,
            epochs=max(1, round(train.epochs / value)),
            warmup_epochs=train.warmup_epochs / value,
            eval_every=max(1, round(train.eval_every / value)),
        )
    return replace(
        base,
        recipe=replace(base.recipe, train=train),
        train_fraction=value,
        setting="train_fraction",
        value=f"{value:g}",
    )


def _ablation(
    plan: Plan,
    parse: ParseRecipe,
    settings: Settings,
    base: Cell,
    setting: str,
    values: tuple[Any, ...],
) -> Series:
    """A setting's cells, the entry's own among them."""
    place = _place(setting, base.recipe)
    series = {}
    for value in values:
        where = f"ablations.vary.{setting}: {value!r}"
        recipe = _parse(parse, _merged(settings, _nested(place, value)), where)
        text = value_text(value)
        series[text] = plan.add(replace(base, recipe=recipe, setting=setting, value=text))
    if base not in series.values():
        own: Any = base.recipe.to_dict()
        for key in place.split("."):
            own = own[key]
        series = {value_text(own): base, **series}
        if all(isinstance(value, int | float) for value in (own, *values)):
            series = dict(sorted(series.items(), key=lambda item: float(item[0])))
    return series


def value_text(value: Any) -> str:
    """A YAML value as a reader writes it.

    >>> value_text([3, 1, 1]), value_text(None), value_text(0.5), value_text(True)
    ('3,1,1', 'none', '0.5', 'true')
    """
    if isinstance(value, list | tuple):
        return ",".join(value_text(item) for item in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _entry_settings(base: Settings, settings: Settings, name: str) -> Settings:
    """The settings of every run with those of an entry, and a method in any case."""
    if "method" not in settings and "method" not in base:
        if name not in METHODS:
            raise ValueError(
                f"methods.{name} has no `method`, and {name!r} is none; known are "
                f"{', '.join(METHODS)}"
            )
        settings = {**settings, "method": {"name": name}}
    method = settings.get("method")
    if isinstance(method, str):  # method: linear_probe
        settings = {**settings, "method": {"name": method}}
    elif isinstance(method, Mapping) and "name" not in method and "method" not in base:
        if name not in METHODS:
            raise ValueError(f"methods.{name}.method has no name; known are {', '.join(METHODS)}")
        settings = {**settings, "method": {"name": name, **method}}
    return _merged(base, settings)


def _merged(base: Settings, changes: Settings) -> Settings:
    """Settings with changes laid over them; another method brings its own settings alone."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            other = key == "method" and value.get("name", before.get("name")) != before.get("name")
            merged[key] = value if other else _merged(before, value)
        else:
            merged[key] = value
    return merged


def _place(setting: str, recipe: Recipe) -> str:
    """Where a setting stands in the recipe."""
    top = [f.name for f in fields(recipe)]
    return setting if "." in setting or setting in top else f"method.{setting}"


def _nested(place: str, value: Any) -> Settings:
    for key in reversed(place.split(".")):
        value = {key: value}
    settings: Settings = value
    return settings


def _parse(parse: ParseRecipe, settings: Settings, where: str) -> Recipe:
    try:
        return parse(settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _swept(
    sweep: Sweep | None, entries: Mapping[str, tuple[Settings, Cell]]
) -> list[tuple[str, Cell]]:
    return [] if sweep is None else [(name, entries[name][1]) for name in sweep.methods]


def _with(sweep: Sweep | None, own: Any) -> list[Any]:
    """The values, ascending, with the entry's own."""
    assert sweep is not None
    return sorted({*sweep.values, own})
