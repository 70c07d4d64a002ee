"""Lists of research code (ST-Adapter, MMAction, SlowFast, VideoMAE): `path label` on each line.

The label, a class number or a name, is the last field, so that paths may hold spaces. Fields are
separated by a blank, a tab or a comma; the first line decides.
"""

import re
from pathlib import Path

from stadapter.data.annotations.rows import (
    Rows,
    class_in,
    class_name,
    read_class_names,
    read_lines,
)
from stadapter.data.annotations.source import (
    Annotations,
    Format,
    Lists,
    Source,
    lists_by_name,
    split_of,
)
from stadapter.data.annotations.videos import resolve
from stadapter.data.video import VIDEO_SUFFIXES

CLASS_FILES = ("classes.txt", "label_map.txt")
"""Names under which a list of classes is found beside the lists."""
SEPARATORS = {"tab": "\t", "blank": " ", "comma": ","}


def _is_list(file: Path) -> bool:
    if file.suffix.lower() in (".txt", ".list", ".lst"):
        return file.name not in CLASS_FILES
    if file.suffix.lower() != ".csv":
        return False
    return _begins_with_video(file)  # a table begins with names of columns


def _in_folder(file: Path) -> bool:
    return split_of(file) != "" and _is_list(file) and _begins_with_video(file)


def _begins_with_video(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        line = stream.readline(65536)
    return any(_has_suffix(line, mark) for mark in SEPARATORS.values())


def _read(lists: Lists, source: Source) -> Annotations:
    classes = source.classes
    folder = next(iter(lists.files.values())).absolute().parent
    if classes is None:
        classes = next((folder / n for n in CLASS_FILES if (folder / n).is_file()), None)
    names = None if classes is None else read_class_names(classes)
    convert = class_name if names is None or classes is None else class_in(names, classes)
    files: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    for split, file in lists.files.items():
        rows = _read_rows(file)
        files += rows.columns["path"]
        labels += rows.parse("label", convert)
        splits += [split] * len(rows)
    paths, notes = resolve(files, source, folder)
    given = None if "" in lists.files else splits
    return Annotations(paths, "single_label", (labels,), given, (names,), notes=notes)


PATH_LABEL = Format(
    "a text file with `path label` on each line",
    lists_by_name(_is_list, in_folder=_in_folder),
    _read,
)


def _read_rows(file: Path) -> Rows:
    lines, numbers = read_lines(file)
    if not lines:
        raise ValueError(f"{file} has no lines")
    mark = _separator(lines[0])
    rows = Rows(file, {"path": [], "label": []}, lambda row: f"line {numbers[row]}")
    blank = None if mark == " " else mark  # any run of blanks
    for number, line in zip(numbers, lines, strict=True):
        fields = line.strip().rsplit(blank, 1)
        if len(fields) < 2 or not fields[0]:
            name = next(name for name, text in SEPARATORS.items() if text == mark)
            raise ValueError(
                f"{file}, line {number}: {line[:80]!r} must be `path label`, separated by a {name} "
                "as on line 1"
            )
        rows.columns["path"].append(fields[0].rstrip() if mark != "\t" else fields[0])
        rows.columns["label"].append(fields[1])
    return rows


def _separator(line: str) -> str:
    """The mark after which the label stands: the one that leaves a video's name before it."""
    marks = list(SEPARATORS.values())
    for mark in marks:
        if _has_suffix(line, mark):
            return mark
    return next((mark for mark in marks if mark in line.strip()), " ")


def _has_suffix(line: str, mark: str) -> bool:
    path, found, label = line.strip().rpartition(mark)
    suffix = re.search(r"\.\w+$", path.rstrip())
    return bool(found and label.strip() and suffix and suffix[0].lower() in VIDEO_SUFFIXES)
