"""A collection as clips to transcode, and the same collection over the files that were made."""

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stadapter.data import ClipTable, Collection
from stadapter.prepare.task import Clip

_NAME_LENGTH = 72
"""Of a name without its hash: with it and a suffix below the 100 bytes that a plain tar can say."""


@dataclass(frozen=True)
class LabelledClip:
    """One row of the collection."""

    split: str
    row: int
    """Its number in the split's table."""
    clip: Clip
    labels: tuple[str, ...]
    """Names of its classes."""


def labelled_clips(collection: Collection, root: Path) -> Iterator[LabelledClip]:
    """All rows, split by split; outputs are named after the place of the source below `root`."""
    for split, table in collection.splits.items():
        for row, path in enumerate(table.paths):
            clip = _clip(path, _times(table, row), root)
            yield LabelledClip(split, row, clip, table.label_names(row))


def replace_files(collection: Collection, outputs: Mapping[str, Mapping[int, str]]) -> Collection:
    """The collection with the rows that have an output (split -> row -> path), whole files now."""
    splits = {}
    for split, table in collection.splits.items():
        chosen = outputs.get(split, {})
        if chosen:
            table = table.take(list(chosen))
            whole = np.array(math.nan)  # each output holds its clip and nothing else
            splits[split] = replace(table, paths=tuple(chosen.values()), starts=whole, ends=whole)
    return replace(collection, splits=splits)


def _times(table: ClipTable, row: int) -> tuple[float | None, float | None]:
    start, end = float(table.starts[row]), float(table.ends[row])
    return None if math.isnan(start) else start, None if math.isnan(end) else end


def _clip(path: str, times: tuple[float | None, float | None], root: Path) -> Clip:
    file = Path(path)
    try:
        place = file.relative_to(root).as_posix()  # so that a moved collection gets the same names
    except ValueError:
        place = os.fspath(file)
    digest = hashlib.sha256("\0".join([place, *map(repr, times)]).encode()).hexdigest()[:16]
    return Clip(path, *times, _plain(file.parent.name), f"{_plain(file.stem)}-{digest}")


def _plain(name: str) -> str:
    """As part of a file name anywhere: ASCII letters, digits, - and _; no dots, for WebDataset."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name)[:_NAME_LENGTH].strip("_-") or "clip"
