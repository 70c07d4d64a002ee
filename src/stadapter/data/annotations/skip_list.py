"""A list of clips to leave out, as `stadapter check` writes it: a CSV with path,split[,reason].

An empty split leaves the path out of all splits. Paths are relative to the list or absolute.
"""

import csv
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

from stadapter.data.annotations.table import SPLITS, ClipTable, Collection

HEADER = ("path", "split", "reason")


@dataclass(frozen=True)
class LeftOut:
    """What a skip list did to a collection."""

    counts: dict[str, int]
    """Split -> how many of its clips were left out; only splits that lost some."""
    unmatched: tuple[str, ...]
    """Paths of the list, as written there, that no clip has."""

    def __str__(self) -> str:
        total = sum(self.counts.values())
        sizes = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        text = f"the skip list leaves out {total} clips" + (f" ({sizes})" if sizes else "")
        if self.unmatched:
            shown = ", ".join(self.unmatched[:5])
            more = f" and {len(self.unmatched) - 5} more" if len(self.unmatched) > 5 else ""
            text += f"; {len(self.unmatched)} of its entries match no clip: {shown}{more}"
        return text


def leave_out(collection: Collection, skip_list: str | Path) -> tuple[Collection, LeftOut]:
    """The collection without the clips that the list names.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is no skip list (the line is named), or no clip is left.
    """
    entries = _read(Path(skip_list))
    skipped = {(path, split) for _, path, split in entries}
    splits: dict[str, ClipTable] = {}
    counts: dict[str, int] = {}
    for split, table in collection.splits.items():
        kept = [
            i
            for i, path in enumerate(table.paths)
            if (path, split) not in skipped and (path, "") not in skipped
        ]
        if len(kept) < len(table):
            counts[split] = len(table) - len(kept)
        if kept:
            splits[split] = table.take(kept)
    if not splits:
        raise ValueError(f"skip list {skip_list} leaves out every clip")
    known = {(path, split) for split, table in collection.splits.items() for path in table.paths}
    paths = {path for path, _ in known}
    unmatched = tuple(
        dict.fromkeys(
            written
            for written, path, split in entries
            if (path not in paths if split == "" else (path, split) not in known)
        )
    )
    return replace(collection, splits=splits), LeftOut(counts, unmatched)


def _read(file: Path) -> list[tuple[str, str, str]]:
    """(path as written, absolute path, split) of each line."""
    if not file.is_file():
        raise FileNotFoundError(f"skip list {file} does not exist; `stadapter check` writes one")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"skip list {file} is no CSV in UTF-8: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    root = file.absolute().parent
    entries = []
    try:
        header = next(reader, [])
        if tuple(header) not in (HEADER, HEADER[:2]):
            raise ValueError(
                f"skip list {file}, line 1: the header must be path,split[,reason] but is "
                f"{','.join(header)!r}"
            )
        for row in reader:
            if not row:
                continue
            place = f"skip list {file}, line {reader.line_num}"
            if len(row) not in (2, 3):
                raise ValueError(f"{place}: {len(row)} columns instead of {len(header)}")
            path, split = row[0], row[1].strip()
            if not path:
                raise ValueError(f"{place}: path is missing")
            if split and split not in SPLITS:
                raise ValueError(f"{place}: split {split!r} must be empty or {', '.join(SPLITS)}")
            entries.append((path, os.path.normpath(root / path), split))
    except csv.Error as error:
        raise ValueError(f"skip list {file}, line {reader.line_num}: {error}") from error
    return entries
