"""Recipes that ship: YAML files beside this one, each headed by what one must know before a run.

A head is a comment: what it is in the first line, then entries `# Key:  text` that go on in lines
without a key. It says the commands, the hardware, the time, the score to expect and from whom it
is, where the settings come from, and how they differ from the published ones.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from stadapter.atomic import write_text

FOLDER = Path(__file__).parent
_ENTRY = re.compile(r"# (\w+): +(.*)")


@dataclass(frozen=True)
class RecipeHead:
    """What the head of a recipe says."""

    name: str
    """Of the file, without its suffix."""
    what: str
    """Collection, backbone and frames."""
    command: tuple[str, ...]
    """Command lines, with DATA and RUN for the user's own paths."""
    hardware: str
    """What the commands are for."""
    time: str
    """How long it took, and whom."""
    expected: str
    """The score, its range, and who measured it."""


def recipe_names() -> list[str]:
    """Names of the recipes that ship, sorted; 8 frames come before 16."""
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    return sorted(names, key=lambda name: [int(n) if n.isdecimal() else n for n in _parts(name)])


def recipe_path(name: str) -> Path:
    """The file of a recipe that ships.

    Raises:
        ValueError: no recipe of that name.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in recipe_names():
        raise ValueError(f"no recipe {name!r}; there are {', '.join(recipe_names())}")
    return path


def find_recipe(config: str) -> Path:
    """A YAML file of the user, or else the recipe of that name.

    Raises:
        ValueError: neither.
    """
    if Path(config).is_file():
        return Path(config)
    if config in recipe_names():
        return recipe_path(config)
    names = ", ".join(recipe_names())
    raise ValueError(f"{config} does not exist, and is no recipe that ships; these are {names}")


def read_head(name: str) -> RecipeHead:
    """The head of a recipe that ships.

    Raises:
        ValueError: no recipe of that name.
    """
    entries: dict[str, list[str]] = {}
    what, *rest = recipe_path(name).read_text(encoding="utf-8").splitlines()
    key = ""
    for line in rest:
        if not line.startswith("#"):
            break
        if entry := _ENTRY.fullmatch(line):
            key = entry[1].lower()
            entries[key] = [entry[2]]
        elif key:
            entries[key].append(line.removeprefix("#").strip())
    return RecipeHead(
        name=name,
        what=what.removeprefix("# "),
        command=tuple(entries["command"]),
        hardware=" ".join(entries["hardware"]),
        time=" ".join(entries["time"]),
        expected=" ".join(entries["expected"]),
    )


def copy_recipe(name: str, destination: str | Path, *, overwrite: bool = False) -> Path:
    """Copy a recipe that ships to a file, or into a folder under its name; returns the file.

    Raises:
        ValueError: no recipe of that name.
        FileExistsError: the file exists and `overwrite` was not asked for.
        OSError: it cannot be written.
    """
    source, target = recipe_path(name), Path(destination)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists; replace it with --overwrite, or choose another DEST"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"folder {target.parent} does not exist; make it first")
    write_text(target, source.read_text(encoding="utf-8"))
    return target


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)
