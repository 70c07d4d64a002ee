"""Charades: CSVs with id and actions, several a video; a clip is a video with all its actions."""

import re
from pathlib import Path

from stadapter.data.annotations.rows import (
    class_name,
    columns_named,
    read_delimited,
    read_header,
    read_lines,
    seconds,
)
from stadapter.data.annotations.source import (
    Annotations,
    Format,
    Lists,
    Source,
    list_files,
    lists_by_name,
)
from stadapter.data.annotations.videos import VideoIndex


def _is_list(file: Path) -> bool:
    # A table with named columns has a path; here the video is known by its id.
    titles = set(read_header(file)) if file.suffix.lower() == ".csv" else set()
    return {"id", "actions"} <= titles and "path" not in titles


def _read(lists: Lists, source: Source) -> Annotations:
    folder = next(iter(lists.files.values())).absolute().parent
    class_file = source.classes or _class_file(folder)
    names = _class_names(class_file) if class_file else None

    def name_of(code: str) -> str:
        if names is None or class_file is None:
            return code
        if code not in names:
            raise ValueError(f"unknown class {code!r}; {class_file.name} has {len(names)} classes")
        return names[code]

    labels: list[list[str]] = []
    ids: list[str] = []
    splits: list[str] = []
    for split, file in lists.files.items():
        rows = read_delimited(file, columns_named("id", "actions"))
        ids += rows.parse("id", class_name)
        labels += rows.parse("actions", lambda cell: [name_of(code) for code in _codes(cell)])
        splits += ["val" if split == "test" and "val" not in lists.files else split] * len(rows)
    paths, notes = VideoIndex(source).locate([(name,) for name in ids])
    if "test" in lists.files and "val" not in lists.files:
        notes += ("the test list is used as val",)
    if names is None:
        notes += ("Charades_v1_classes.txt is not beside the list; classes are named by code",)
    vocabulary = tuple(names.values()) if names else None
    given = None if "" in lists.files else splits
    return Annotations(paths, "multi_label", (labels,), given, (vocabulary,), notes=notes)


CHARADES = Format(
    "a CSV with columns id, actions (`c092 11.90 21.20;...`), or a folder with "
    "Charades_v1_train.csv and Charades_v1_test.csv",
    lists_by_name(_is_list),
    _read,
)


def _codes(cell: str) -> list[str]:
    """Codes of the classes in "c092 11.90 21.20;c019 0.00 5.00"."""
    codes = []
    for action in cell.split(";") if cell.strip() else ():
        fields = action.split()
        if len(fields) != 3:
            raise ValueError(f"{action.strip()!r} must be `class start end`, as c092 11.90 21.20")
        start, end = seconds(fields[1]), seconds(fields[2])
        if end < start:
            raise ValueError(f"action {action.strip()!r} ends before it starts")
        codes.append(fields[0])
    return codes


def _class_file(folder: Path) -> Path | None:
    found = [f for f in list_files(folder) if re.search(r"(^|[^a-z])classes\.txt$", f.name.lower())]
    return found[0] if len(found) == 1 else None


def _class_names(file: Path) -> dict[str, str]:
    """Code -> name, from lines like `c000 Holding some clothes`."""
    lines, numbers = read_lines(file)
    names: dict[str, str] = {}
    for line, number in zip(lines, numbers, strict=True):
        code, _, name = line.strip().partition(" ")
        if not name.strip() or code in names or name.strip() in names.values():
            raise ValueError(
                f"{file}, line {number}: {line!r} must be `code class name`, both of them new"
            )
        names[code] = name.strip()
    return names
