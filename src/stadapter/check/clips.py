"""The clips that are to be checked: those of a collection, or of any folder of videos."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stadapter.data import (
    ClipTable,
    DataConfig,
    announce_collection,
    find_videos,
    load_collection,
)
from stadapter.data.annotations.table import SPLITS


@dataclass(frozen=True)
class Clip:
    """One line of a collection."""

    path: str
    """Its file, absolute."""
    label: str | None = None
    """Its label as people read it; None in a folder without classes."""
    split: str | None = None
    """The split that was given, if any was."""
    start: float = 0.0
    """Where it starts in its file, seconds."""
    end: float = math.inf
    """Where it ends in its file, seconds."""
    classes: tuple[str, ...] = ()
    """The classes that its label names."""


@dataclass(frozen=True)
class Clips:
    """What DATA holds, also where `train` would not take it."""

    rows: tuple[Clip, ...]
    """In the order of the collection."""
    class_names: tuple[str, ...] = ()
    """All classes, also those without clips; empty in a folder without classes."""
    refusal: str | None = None
    """Why `train` refuses the collection, if it does."""


def load_clips(data: str | Path, reading: DataConfig | None = None) -> Clips:
    """Read DATA as `train` does, and say how.

    A folder that `train` refuses is taken as it lies there, unless `reading` says how to read it.

    Raises:
        FileNotFoundError: `data` does not exist.
        ValueError: a list that cannot be read, or a folder without videos.
    """
    data, reading = Path(data), reading or DataConfig()
    try:
        collection = load_collection(data, reading)
    except ValueError as error:
        if not data.is_dir() or reading != DataConfig():
            raise
        return _load_folder(data, str(error))
    announce_collection(collection, data)
    rows = [
        clip
        for split, table in collection.splits.items()
        for clip in _clips(table, None if collection.made_split else split)
    ]
    return Clips(tuple(rows), collection.class_names)


def _clips(table: ClipTable, split: str | None) -> Sequence[Clip]:
    starts = np.nan_to_num(table.starts, nan=0.0).tolist()
    ends = np.nan_to_num(table.ends, nan=math.inf).tolist()
    return [
        Clip(path, table.label_name(i), split, starts[i], ends[i], table.space.classes_of(label))
        for i, (path, label) in enumerate(zip(table.paths, table.labels, strict=True))
    ]


def _load_folder(data: Path, refusal: str) -> Clips:
    """Every video below the folder; the folders above it are its class, and its split if all are.

    With less than two classes it is a folder of videos, which nobody meant to train on.
    """
    videos = find_videos(data)
    if not videos:
        raise ValueError(refusal)
    for path in videos:
        if str(path) != str(path).encode("utf-8", "replace").decode():
            raise ValueError(f"{data} has a file whose name is no UTF-8: {str(path)!r}; rename it")
    folders = _folders(data)
    splits = {folder.name: _split_name(folder.name) for folder in folders}
    if folders and all(splits.values()):
        classes = sorted({child.name for folder in folders for child in _folders(folder)})
    else:
        splits = {}
        classes = [folder.name for folder in folders]
    if len(classes) < 2:
        return Clips(tuple(Clip(str(path.absolute())) for path in videos))
    rows = []
    for path in videos:
        *above, _ = path.relative_to(data).parts
        split = splits.get(above.pop(0)) if splits and above else None
        label = above[0] if above else None
        rows.append(Clip(str(path.absolute()), label, split, classes=tuple(above[:1])))
    return Clips(tuple(rows), tuple(classes), refusal)


def _folders(folder: Path) -> list[Path]:
    return sorted(c for c in folder.iterdir() if c.is_dir() and not c.name.startswith("."))


def _split_name(name: str) -> str | None:
    """ "Training" and "valid" are splits too."""
    return next((split for split in SPLITS if name.lower().startswith(split)), None)
