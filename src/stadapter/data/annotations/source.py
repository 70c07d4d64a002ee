"""What a user gives, what a format is, and what reading it brings.

A format is a file in `formats/` and an entry in `FORMATS`. It says which lists DATA stands for, and
turns them into `Annotations`: paths and class names as text. Everything after that, from class
numbers to splits, is done once for all of them in `load.py`.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stadapter.data.annotations.rows import SPLIT_NAMES
from stadapter.data.labels import TaskName

_SPLIT_WORD = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)
LIST_SUFFIXES = (".csv", ".json", ".list", ".lst", ".parquet", ".pq", ".tab", ".tsv", ".txt")
_LIST_FOLDER = re.compile("annotation|label|list|split", re.IGNORECASE)
"""Folders beside the videos in which collections keep their lists."""


@dataclass(frozen=True)
class DataConfig:
    """How DATA is read."""

    format: str | None = None
    """Name of its format; None recognises it."""
    videos: str | Path | None = None
    """Folder of the videos of a list; None looks for them near the list."""
    classes: str | Path | None = None
    """Text file with a class name per line, for lists with class numbers."""
    skip_list: str | Path | None = None
    """CSV of clips to leave out, such as skip.csv of `check`."""
    train_fraction: float = 1.0
    """Train on this share of the training clips of each class, above 0 to 1, chosen by the seed;
    at least one clip of each."""
    clips_per_class: int | None = None
    """Train on so many training clips of each class (few-shot), chosen by the seed; None takes
    all."""

    def __post_init__(self) -> None:
        if not 0 < self.train_fraction <= 1:
            raise ValueError(
                f"train_fraction ({self.train_fraction}) must be above 0 and at most 1"
            )
        if self.clips_per_class is not None and self.clips_per_class < 1:
            raise ValueError(
                f"clips_per_class ({self.clips_per_class}) must be at least 1, or None for all"
            )
        if self.clips_per_class is not None and self.train_fraction != 1:
            raise ValueError("train_fraction and clips_per_class exclude each other; give one")


@dataclass(frozen=True)
class Source:
    """DATA, and where else to look."""

    data: Path
    """A folder or a list."""
    videos: Path | None = None
    """Folder of the videos; None looks for them near the list."""
    classes: Path | None = None
    """Text file with a class name per line; None takes the names that occur."""

    @property
    def home(self) -> Path:
        """The folder that DATA is, or lies in."""
        return self.data if self.data.is_dir() else self.data.absolute().parent


@dataclass(frozen=True)
class Lists:
    """The lists that DATA stands for."""

    files: dict[str, Path]
    """Split -> its list; "" for a list whose name says no split."""
    notes: tuple[str, ...] = ()
    """What was left out."""


@dataclass(frozen=True)
class Annotations:
    """Clips as a format's reader found them: entry i of every column belongs to clip i."""

    paths: Sequence[str]
    """Absolute paths."""
    task: TaskName
    """What a label is."""
    labels: tuple[Sequence[Any], ...]
    """For each vocabulary of the task, each clip's class name; multi_label: a list of names."""
    splits: Sequence[str] | None = None
    """"train", "val" or "test" for each clip; None where none is given."""
    vocabularies: tuple[tuple[str, ...] | None, ...] = (None, None)
    """For each vocabulary, all its classes in order; None takes those that occur."""
    starts: NDArray[np.float64] = field(default_factory=lambda: np.array(np.nan))
    """Seconds, nan for the file's beginning."""
    ends: NDArray[np.float64] = field(default_factory=lambda: np.array(np.nan))
    """Seconds, nan for the file's end."""
    notes: tuple[str, ...] = ()
    """Sentences for the user."""


@dataclass(frozen=True)
class Format:
    """A way in which collections are written down."""

    expects: str
    """What DATA has to be, for an error message."""
    find: Callable[[Path, bool], Lists | None]
    """(DATA, whether the user named this format) -> its lists; None: DATA is none of these."""
    read: Callable[[Lists, Source], Annotations]
    """Raises ValueError with file, line and column; FileNotFoundError without videos."""


def lists_by_name(
    is_list: Callable[[Path], bool], *, in_folder: Callable[[Path], bool] | None = None
) -> Callable[[Path, bool], Lists | None]:
    """`Format.find` for lists that say their split in their names: train.csv, x_val.csv.

    DATA is a list or a folder with lists, in itself or in a folder below it such as `labels/`. A
    training list brings the lists beside it that differ from it in the split's name alone.

    Args:
        is_list: whether a file is a list of this format.
        in_folder: the same for files that the user did not name; more may be asked of them.
    """
    wanted = in_folder or is_list

    def find(data: Path, forced: bool) -> Lists | None:
        if data.is_file():
            return _family(data, wanted) if forced or is_list(data) else None
        for folder in list_folders(data):
            files = [f for f in list_files(folder) if wanted(f)]
            first = [f for f in files if split_of(f) == "train"] or files
            families = {tuple(_family(f, wanted).files.values()) for f in first}
            if len(families) > 1 and len({split_of(f) for f in first}) < len(first):
                names = ", ".join(f.name for f in first)
                raise ValueError(f"{folder} has several lists ({names}); say which one")
            if len(families) > 1:  # a val and a test list, without the training list
                return Lists({split_of(f): f for f in first})
            if first:
                return _family(first[0], wanted)
        return None

    return find


def list_folders(data: Path) -> list[Path]:
    """A folder, and those in it whose names say that they hold lists."""
    below = (
        Path(entry.path)
        for entry in os.scandir(data)
        if _LIST_FOLDER.search(entry.name) and not entry.name.startswith(".") and entry.is_dir()
    )
    return [data, *sorted(below)]


def list_files(folder: Path) -> list[Path]:
    """Files in a folder that may be lists, by suffix, sorted; among any number of videos."""
    return sorted(
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(LIST_SUFFIXES)
        and not entry.name.startswith(".")
        and entry.is_file()
    )


def split_of(file: Path) -> str:
    """The split that a list's name says; "" for none, or several."""
    words = {SPLIT_NAMES[word.lower()] for word in _SPLIT_WORD.findall(file.stem)}
    return words.pop() if len(words) == 1 else ""


def _family(file: Path, wanted: Callable[[Path], bool]) -> Lists:
    """A list, and if it is a training list, its validation and test lists."""
    split = split_of(file)
    files, notes = {split: file}, []
    if split == "train":
        pattern = _SPLIT_WORD.sub("*", file.name.lower())
        for other in list_files(file.absolute().parent):
            role = split_of(other)
            if role in ("", "train") or _SPLIT_WORD.sub("*", other.name.lower()) != pattern:
                continue
            if not wanted(other):
                notes.append(f"{other.name} has no labels and is left out")
            elif role in files:
                raise ValueError(f"{files[role]} and {other} are both the {role} list of {file}")
            else:
                files[role] = other
    order = [name for name in ("train", "val", "test", "") if name in files]
    return Lists({name: files[name] for name in order}, tuple(notes))
