"""The clips that are to be checked: those of a collection, or of any folder of videos."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stadapter.data import ClipTable, find_videos, load_collection


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


@dataclass(frozen=True)
class Clips:
    """What DATA holds, also where `train` would not take it."""

    rows: tuple[Clip, ...]
    """In the order of the collection."""
    class_names: tuple[str, ...] = ()
    """All classes, also those without clips; empty in a folder without classes."""
    refusal: str | None = None
    """Why `train` refuses the collection, if it does."""


def load_clips(data: str | Path) -> Clips:
    """Read DATA as `train` does; a folder that `train` refuses is taken as it lies there.

    Raises:
        FileNotFoundError: `data` does not exist.
        ValueError: a list that cannot be read, or a folder without videos.
    """
    data = Path(data)
    try:
        collection = load_collection(data)
    except ValueError as error:
        if not data.is_dir():
            raise
        return _load_folder(data, str(error))
    rows = [
        clip
        for split, table in collection.splits.items()
        for clip in _clips(table, None if collection.made_split else split)
    ]
    return Clips(tuple(rows), collection.class_names)


def _clips(table: ClipTable, split: str | None) -> Sequence[Clip]:
    names = table.class_names
    return [
        Clip(path, names[label], split)
        for path, label in zip(table.paths, table.labels, strict=True)
    ]


def _load_folder(data: Path, refusal: str) -> Clips:
    """Every video below the folder; the first folder below it is its class, if there are two."""
    videos = find_videos(data)
    if not videos:
        raise ValueError(refusal)
    parents = sorted(
        child.name for child in data.iterdir() if child.is_dir() and not child.name.startswith(".")
    )
    if len(parents) < 2:
        return Clips(tuple(Clip(str(path.absolute())) for path in videos))
    rows = []
    for path in videos:
        parts = path.relative_to(data).parts
        rows.append(Clip(str(path.absolute()), parts[0] if len(parts) > 1 else None))
    return Clips(tuple(rows), tuple(parents), refusal)
