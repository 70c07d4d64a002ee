"""CSV, TSV and Parquet with named columns; also what a run writes as split.csv."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stadapter.data.annotations.formats.parquet import parquet_header, read_parquet
from stadapter.data.annotations.rows import (
    Rows,
    class_in,
    class_name,
    read_class_names,
    read_delimited,
    read_header,
    split_name,
)
from stadapter.data.annotations.source import (
    Annotations,
    Format,
    Lists,
    Source,
    lists_by_name,
    split_of,
)
from stadapter.data.annotations.table import CLASS_LIST
from stadapter.data.annotations.videos import resolve
from stadapter.data.labels import VOCABULARIES, TaskName, split_names

COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("file", "filename", "file_name", "file_path", "filepath", "video", "video_path"),
    "label": ("class", "class_name", "category", "action"),
    "labels": ("classes", "class_names", "categories", "actions", "tags"),
    "verb": (),
    "noun": (),
    "start": ("start_seconds", "start_time", "time_start"),
    "end": ("end_seconds", "end_time", "time_end"),
    "split": ("subset", "partition"),
}
"""Column -> what else tables call it, in any case."""
OTHER_NAMES = ("split", "metadata", "annotations", "clips")
"""Names of tables that are taken from a folder, besides those that say a split."""


def pick_columns(header: Sequence[str]) -> dict[str, str]:
    """Column -> its title in the header.

    Raises:
        ValueError: a column is missing, or two titles stand for one.
    """
    titles = {title.lower(): title for title in reversed(header)}
    found: dict[str, str] = {}
    for column, others in COLUMNS.items():
        names = [column] if column in titles else [name for name in others if name in titles]
        if len(names) > 1:
            raise ValueError(
                f"columns {' and '.join(titles[name] for name in names)} could both be the "
                f"{column}; rename one of them to {column}"
            )
        if names:
            found[column] = titles[names[0]]
    given = [group for group in (("label",), ("labels",), ("verb", "noun")) if found.keys() & group]
    if len(given) > 1:
        raise ValueError(
            f"there are several kinds of labels, {' and '.join(map(','.join, given))}; keep one"
        )
    needed = ("path", *(given[0] if given else ("label",)))
    missing = [column for column in needed if column not in found]
    if missing:
        raise ValueError(
            f"column {' and '.join(missing)} is missing; a table has columns path, label (or "
            "labels, or verb and noun) and perhaps split, start, end, but the header is "
            f"{','.join(header)!r}"
        )
    return found


def _delimiter(file: Path) -> str:
    """A tab in .tsv; a comma in .csv, or the semicolon of spreadsheets that write 1,5 for 1.5."""
    if file.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    header = read_header(file)
    return ";" if len(header) == 1 and ";" in header[0] else ","


def _read_delimited(file: Path) -> Rows:
    return read_delimited(file, pick_columns, _delimiter(file))


def _read_parquet(file: Path) -> Rows:
    return read_parquet(file, pick_columns)


def _read(read: Callable[[Path], Rows], lists: Lists, source: Source) -> Annotations:
    parts = [_read_one(read(file), split, source) for split, file in lists.files.items()]
    first = parts[0]
    for part, file in zip(parts, lists.files.values(), strict=True):
        if part.task != first.task:
            raise ValueError(
                f"{file} has labels of task {part.task}, but the lists beside it {first.task}"
            )
    files = [file for part in parts for file in part.paths]
    folder = next(iter(lists.files.values())).absolute().parent
    paths, notes = resolve(files, source, folder)
    return Annotations(
        paths=paths,
        task=first.task,
        labels=tuple(
            [x for column in columns for x in column]
            for columns in zip(*(part.labels for part in parts), strict=True)
        ),
        splits=[split for part in parts for split in part.splits or ()] or None,
        vocabularies=first.vocabularies,
        starts=np.concatenate([part.starts for part in parts]),
        ends=np.concatenate([part.ends for part in parts]),
        notes=notes,
    )


def _read_one(rows: Rows, split: str, source: Source) -> Annotations:
    """One list; its paths as they stand in it."""
    rows, vocabularies = _without_class_list(rows)
    if "" in rows.columns["path"]:
        raise rows.error(rows.columns["path"].index(""), "path", "the file is missing")
    task: TaskName = "single_label"
    if "labels" in rows.columns:
        task = "multi_label"
    elif "verb" in rows.columns:
        task = "verb_noun"
    name: Callable[[str], str] = class_name
    if source.classes is not None:
        if task == "verb_noun":
            raise ValueError(f"{rows.file}: --classes names one list of classes, not verb and noun")
        names = read_class_names(source.classes)
        name, vocabularies = class_in(names, source.classes), (names,)
    labels: tuple[Sequence[Any], ...]
    if task == "multi_label":
        labels = (rows.parse("labels", lambda cell: list(map(name, split_names(cell.strip())))),)
    else:
        labels = tuple(rows.parse(column, name) for column in VOCABULARIES[task])
    splits = None
    if "split" in rows.columns:
        splits = rows.parse("split", split_name)
    elif split:
        splits = [split] * len(rows)
    starts, ends = rows.times("start", "end")
    return Annotations(rows.columns["path"], task, labels, splits, vocabularies, starts, ends)


def _without_class_list(rows: Rows) -> tuple[Rows, tuple[tuple[str, ...] | None, ...]]:
    """The rows that are clips, and the classes that the others name (`Collection.to_csv`)."""
    splits = rows.columns.get("split", [])
    if CLASS_LIST not in splits:
        return rows, (None, None)
    chosen = [i for i, split in enumerate(splits) if split == CLASS_LIST]
    clips = [i for i, split in enumerate(splits) if split != CLASS_LIST]
    vocabularies = []
    for column in ("label", "labels", "verb", "noun"):
        cells = [rows.columns[column][i] for i in chosen] if column in rows.columns else []
        if column == "labels":
            cells = [name for cell in cells for name in split_names(cell)]
        if cells:
            vocabularies.append(tuple(cell for cell in cells if cell))
    return rows.take(clips), tuple(vocabularies)


def _says_split(file: Path) -> bool:
    return split_of(file) != "" or file.stem.lower() in OTHER_NAMES


def _fits(header: Sequence[str]) -> bool:
    try:
        pick_columns(header)
    except ValueError:
        return False
    return True


def _format(
    kind: str, suffixes: tuple[str, ...], header: Callable[[Path], list[str]], read: Any
) -> Format:
    def is_list(file: Path) -> bool:
        return file.suffix.lower() in suffixes

    def in_folder(file: Path) -> bool:
        return is_list(file) and _says_split(file) and _fits(header(file))

    return Format(
        f"{kind} with columns path, label (or labels, or verb and noun) and perhaps split, start, "
        "end",
        lists_by_name(is_list, in_folder=in_folder),
        partial(_read, read),
    )


def _delimited_header(file: Path) -> list[str]:
    return read_header(file, _delimiter(file))


CSV = _format("a CSV", (".csv", ""), _delimited_header, _read_delimited)
TSV = _format("a TSV", (".tsv", ".tab"), _delimited_header, _read_delimited)
PARQUET = _format("a Parquet file", (".parquet", ".pq"), parquet_header, _read_parquet)
