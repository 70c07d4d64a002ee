"""What a study is: its YAML as a frozen tree, refused in a sentence where it makes no sense.

The words are those of recipes: `recipe` holds settings of every run, an entry of `methods` those in
which its runs differ. What the settings themselves may be is known to whoever parses recipes, so
they stay plain here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from stadapter.data import DataConfig
from stadapter.data.two_cues import TwoCuesConfig
from stadapter.methods import METHODS

Settings = Mapping[str, Any]
"""Settings of a recipe as YAML has them: {"train": {"epochs": 5}}."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Sweep:
    """One setting with several values, for some methods."""

    values: tuple[Any, ...]
    """The values; that of the entry itself is added by the plan."""
    methods: tuple[str, ...]
    """Names of entries of `methods`."""
    same_steps: bool = False
    """Of fractions: more epochs where there are fewer clips, so that all make as many steps."""


@dataclass(frozen=True)
class Ablations:
    """Settings of one entry, each changed by itself."""

    of: str
    """Name of an entry of `methods`."""
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Setting -> values. A setting of the method has its plain name (width), others their place in
    the recipe (train.lr)."""


@dataclass(frozen=True)
class EveryMethod:
    """An entry for each method of the package that no other entry uses."""

    settings: Settings = field(default_factory=dict)
    """In which settings their runs differ from `recipe`. Of those under `method` each method takes
    what it has."""
    but: tuple[str, ...] = ()
    """Methods to leave out."""


@dataclass(frozen=True)
class StudyConfig:
    """Everything that a study's YAML says."""

    methods: Mapping[str, Settings]
    """Name of an entry -> in which settings its runs differ from `recipe`. Without a `method` the
    name is the method's."""
    every_method: EveryMethod | None = None
    """Also all methods that are not there yet."""
    title: str = "Study"
    """Heading of the page."""
    data: tuple[str, ...] = ()
    """Folder or list of clips, as `train` takes it; several are the folds of a cross-validation,
    each with a split of its own. Empty renders the collection of `two_cues`."""
    reading: DataConfig = field(default_factory=DataConfig)
    """How DATA is read: the data flags of `train`."""
    two_cues: TwoCuesConfig | None = None
    """The generated collection with order-only and appearance classes."""
    recipe: Settings = field(default_factory=dict)
    """Settings of every run."""
    seeds: tuple[int, ...] = (0,)
    """Every cell is run once with each."""
    fractions: Sweep | None = None
    """Shares of the training clips."""
    epochs: Sweep | None = None
    """Lengths of training, each a schedule of its own."""
    ablations: Ablations | None = None
    """What each setting of one entry contributes."""
    class_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> classes that are also scored by themselves; of `two_cues` they are known."""
    num_processes: int | None = None
    """Runs at a time; None takes one on a CPU and one for each GPU."""

    def with_flags(
        self,
        *,
        data: list[str] | None = None,
        backbone_weights: str | None = None,
        num_processes: int | None = None,
    ) -> "StudyConfig":
        """The study with what the command line says instead; None leaves what the YAML says.

        Raises:
            ValueError: `num_processes` below 1, or two folds of one name.
        """
        changed = self
        if data is not None:
            changed = replace(changed, data=_data(data), two_cues=None)
        if backbone_weights is not None:
            recipe = {**self.recipe, "backbone_weights": backbone_weights}
            changed = replace(changed, recipe=recipe)
        if num_processes is not None:
            changed = replace(changed, num_processes=_num_processes(num_processes))
        return changed

    @property
    def folds(self) -> dict[str, str]:
        """Name of a fold -> its list; that of a study without folds is ""."""
        if len(self.data) == 1:
            return {"": self.data[0]}
        return {Path(path).stem: path for path in self.data}


SHIPPED = Path(__file__).parent.parent / "studies"
"""Studies of the package, NAME.yaml each."""


def find_study(name: str) -> tuple[StudyConfig, str]:
    """The study of a file or of a name that the package knows ("quick"), and its YAML.

    Raises:
        FileNotFoundError: neither.
        ValueError: it holds no study.
    """
    path = Path(name)
    if not path.is_file():
        shipped = SHIPPED / f"{path.stem}.yaml"
        if path.parent.name not in ("", "studies") or not shipped.is_file():
            known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
            raise FileNotFoundError(f"study {name} is no file and none of ours; those are {known}")
        path = shipped
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no text in UTF-8") from error
    return read_study(text, name), text


def read_study(text: str, where: str) -> StudyConfig:
    """The study that a YAML says; `where` names it in errors.

    Raises:
        ValueError: no YAML, a key that is unknown or twice, or a value that makes no sense.
    """
    try:
        content = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds no study; a study is a YAML with at least `methods`")
    known = [f.name for f in fields(StudyConfig)]
    _refuse_unknown(content, known, where)
    try:
        return _study(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _study(content: dict[str, Any]) -> StudyConfig:
    methods = _entries(content.get("methods"))
    names = tuple(methods)
    data = _data(content.get("data") or [])
    if data and content.get("two_cues") is not None:
        raise ValueError("data and two_cues exclude each other; give one")
    return StudyConfig(
        methods=methods,
        every_method=_every_method(content.get("every_method")),
        title=str(content.get("title", "Study")),
        data=data,
        reading=_made(DataConfig, content.get("reading"), "reading"),
        two_cues=_made(TwoCuesConfig, content["two_cues"], "two_cues")
        if "two_cues" in content
        else None,
        recipe=_settings(content.get("recipe"), "recipe"),
        seeds=_seeds(content.get("seeds", [0])),
        fractions=_sweep(content, "fractions", names, _is_fraction, "above 0 to 1"),
        epochs=_sweep(content, "epochs", names, _is_count, "whole numbers, at least 1"),
        ablations=_ablations(content.get("ablations"), names),
        class_groups=_groups(content.get("class_groups")),
        num_processes=_num_processes(content.get("num_processes")),
    )


def _data(content: Any) -> tuple[str, ...]:
    """A path, or those of the folds."""
    paths = content if isinstance(content, list) else [content]
    if not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"data ({content}) must be a path, or a list of paths, one for each fold")
    if len(paths) > 1:
        names = [Path(path).stem for path in paths]
        _check_once(names, "data (folds go by the names of their lists)")
        for name in names:
            _check_name(name, "data")
    return tuple(paths)


def _entries(content: Any) -> dict[str, Settings]:
    if not isinstance(content, dict) or not content:
        raise ValueError("methods must map at least one name to its settings")
    for name in content:
        _check_name(name, "methods")
    return {name: _settings(value, f"methods.{name}") for name, value in content.items()}


def _every_method(content: Any) -> EveryMethod | None:
    if content is None:
        return None
    given = _settings(content, "every_method")
    _refuse_unknown(given, ["settings", "but"], "every_method")
    but = given.get("but", [])
    if not isinstance(but, list):
        raise ValueError(f"every_method.but ({but}) must be a list of methods")
    for name in but:
        if name not in METHODS:
            raise ValueError(
                f"every_method.but: unknown method {name!r}; known are {', '.join(METHODS)}"
            )
    settings = _settings(given.get("settings"), "every_method.settings")
    if "name" in _settings(settings.get("method"), "every_method.settings.method"):
        raise ValueError("every_method.settings.method.name: it is every method's own")
    return EveryMethod(settings, tuple(but))


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{where}: name {name!r} must be of letters, digits, and . _ + - (it names folders)"
        )


def _settings(content: Any, where: str) -> Settings:
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{where} ({content!r}) must map settings to values")
    train = content.get("train")
    if isinstance(train, dict) and "seed" in train:
        raise ValueError(f"{where}.train.seed: the seeds of a study stand in `seeds`")
    return content


def _made(kind: type[Any], content: Any, where: str) -> Any:
    """A dataclass from its settings."""
    settings = _settings(content, where)
    _refuse_unknown(settings, [f.name for f in fields(kind)], where)
    if where == "reading" and "train_fraction" in settings:
        raise ValueError("reading.train_fraction: the fractions of a study stand in `fractions`")
    return kind(**settings)


def _seeds(content: Any) -> tuple[int, ...]:
    seeds = content if isinstance(content, list) else [content]
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds ({content}) must be whole numbers, 0 or above")
    _check_once(seeds, "seeds")
    return tuple(seeds)


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _sweep(
    content: dict[str, Any], key: str, names: tuple[str, ...], fits: Any, rule: str
) -> Sweep | None:
    """A list of values for all methods, or {values: [...], methods: [...]}."""
    given = content.get(key)
    if given is None:
        return None
    sweep = given if isinstance(given, dict) else {"values": given}
    known = ["values", "methods", *(["same_steps"] if key == "fractions" else [])]
    _refuse_unknown(sweep, known, key)
    same_steps = sweep.get("same_steps", False)
    if not isinstance(same_steps, bool):
        raise ValueError(f"{key}.same_steps ({same_steps}) must be true or false")
    values = sweep.get("values")
    if not isinstance(values, list) or not values or not all(map(fits, values)):
        raise ValueError(f"{key} ({values}) must be a list of values {rule}")
    _check_once(values, key)
    methods = sweep.get("methods", list(names))
    if not isinstance(methods, list) or not methods:
        raise ValueError(f"{key}.methods ({methods}) must be a list of names")
    for name in methods:
        _check_entry(name, names, f"{key}.methods")
    return Sweep(tuple(values), tuple(methods), same_steps)


def _ablations(content: Any, names: tuple[str, ...]) -> Ablations | None:
    if content is None:
        return None
    settings = _settings(content, "ablations")
    _refuse_unknown(settings, ["of", "vary"], "ablations")
    _check_entry(settings.get("of"), names, "ablations.of")
    vary = _settings(settings.get("vary"), "ablations.vary")
    for setting, values in vary.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"ablations.vary.{setting} ({values}) must be a list of values")
        _check_once(values, f"ablations.vary.{setting}")
        if setting in ("train.seed", "train.epochs"):
            raise ValueError(f"ablations.vary.{setting}: use `{setting[6:].rstrip('s')}s`")
    return Ablations(settings["of"], {name: tuple(values) for name, values in vary.items()})


def _check_entry(name: Any, names: Sequence[str], where: str) -> None:
    if name not in names:
        raise ValueError(f"{where}: {name!r} is no entry of methods; they are {', '.join(names)}")


def _groups(content: Any) -> dict[str, tuple[str, ...]]:
    groups = {}
    for name, classes in _settings(content, "class_groups").items():
        if not isinstance(classes, list) or not classes:
            raise ValueError(f"class_groups.{name} ({classes}) must be a list of class names")
        _check_once(classes, f"class_groups.{name}")
        groups[name] = tuple(map(str, classes))
    return groups


def _num_processes(value: Any) -> int | None:
    if value is not None and not _is_count(value):
        raise ValueError(f"num_processes ({value}) must be a whole number, at least 1")
    return None if value is None else int(value)


def _check_once(values: Sequence[Any], where: str) -> None:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{where}: {twice[0]!r} stands there twice")


def _refuse_unknown(content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise ValueError(
            f"{where}: unknown {', '.join(repr(key) for key in unknown)}; known are "
            f"{', '.join(known)}"
        )


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, since one of the two would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                continue  # SafeLoader refuses it
            if key in seen:
                place = f"line {key_node.start_mark.line + 1}"
                raise yaml.YAMLError(f"{key!r} stands there twice ({place})")
            seen.add(key)
        return super().construct_mapping(node, deep)
