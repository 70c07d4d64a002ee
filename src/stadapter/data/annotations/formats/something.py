"""Something-Something: v2's JSON with templates, v1's CSV with `id;label`; videos by id."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stadapter.data.annotations.rows import (
    Rows,
    class_in,
    class_name,
    read_class_names,
    read_json,
    read_lines,
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


def _template(text: str) -> str:
    """The class: "Holding [something]" without its brackets."""
    return class_name(text.replace("[", "").replace("]", ""))


def _video_id(text: str) -> str:
    if not text.strip():
        raise ValueError("the video's id is missing")
    return text.strip()


# -- v2 ----------------------------------------------------------------------------------------


def _is_json_list(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        start = stream.read(65536)
    return re.match(r"\s*\[\s*\{", start) is not None and '"template"' in start


def _read_v2(lists: Lists, source: Source) -> Annotations:
    parts = {split: _json_rows(file) for split, file in lists.files.items()}
    return _annotations(parts, source, _json_classes(lists, source))


SOMETHING_V2 = Format(
    "a JSON list of entries with id and template, or a folder with train.json and validation.json",
    lists_by_name(_is_json_list),
    _read_v2,
)


def _json_rows(file: Path) -> Rows:
    content = read_json(file)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{file} must be a list of entries with id and template")
    columns: dict[str, list[str]] = {"id": [], "template": []}
    rows = Rows(file, columns, lambda row: f"entry {row + 1}")
    for i, entry in enumerate(content):
        for key, cells in columns.items():
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, (str, int)):
                raise rows.error(i, key, f"a text is expected, not {value!r}")
            cells.append(str(value))
    return rows


def _json_classes(lists: Lists, source: Source) -> tuple[Path, tuple[str, ...]] | None:
    """labels.json: {template without brackets: its number, as text}."""
    if source.classes is not None and source.classes.suffix.lower() != ".json":
        return source.classes, read_class_names(source.classes)
    file = source.classes or _beside(lists, "labels.json")
    if file is None:
        return None
    content: Any = read_json(file)
    if not isinstance(content, dict) or not content:
        raise ValueError(f'{file} must map each template to its number: {{"Holding something": 0}}')
    names: dict[int, str] = {}
    for template, number in content.items():
        text = str(number).strip()
        if not (text.isascii() and text.isdecimal()) or int(text) in names:
            raise ValueError(f"{file}, entry {template!r}: {number!r} is no number of its own")
        names[int(text)] = _template(template)
    if sorted(names) != list(range(len(names))):
        missing = min(set(range(len(names))) - names.keys())
        raise ValueError(f"{file} has {len(names)} classes, but none of them is number {missing}")
    return file, tuple(names[k] for k in range(len(names)))


# -- v1 ----------------------------------------------------------------------------------------


def _is_csv_list(file: Path) -> bool:
    if file.suffix.lower() != ".csv":
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        line = stream.readline(65536).strip()
    return line.lower() == "id;label" or re.fullmatch(r"\d+;[^;]*\S[^;]*", line) is not None


def _read_v1(lists: Lists, source: Source) -> Annotations:
    parts = {split: _csv_rows(file) for split, file in lists.files.items()}
    file = source.classes or _beside(lists, "labels.csv")
    names = None if file is None else tuple(map(_template, read_class_names(file)))
    return _annotations(parts, source, None if file is None or names is None else (file, names))


SOMETHING_V1 = Format(
    "a CSV with `id;label` on each line, or a folder with ...-train.csv and ...-validation.csv",
    lists_by_name(_is_csv_list),
    _read_v1,
)


def _csv_rows(file: Path) -> Rows:
    lines, numbers = read_lines(file)
    if lines and lines[0].strip().lower() == "id;label":
        lines, numbers = lines[1:], numbers[1:]
    if not lines:
        raise ValueError(f"{file} has no clips")
    columns: dict[str, list[str]] = {"id": [], "template": []}
    rows = Rows(file, columns, lambda row: f"line {numbers[row]}", {"template": "label"})
    for number, line in zip(numbers, lines, strict=True):
        name, mark, label = line.partition(";")
        if not mark:
            raise ValueError(f"{file}, line {number}: {line[:80]!r} must be `id;label`")
        columns["id"].append(name)
        columns["template"].append(label.strip().strip('"'))
    return rows


# -- both --------------------------------------------------------------------------------------


def _beside(lists: Lists, ending: str) -> Path | None:
    """The one file beside the lists whose name ends so: labels.json, x-v2-labels.json."""
    folder = next(iter(lists.files.values())).absolute().parent
    found: Sequence[Path] = [f for f in list_files(folder) if f.name.lower().endswith(ending)]
    return found[0] if len(found) == 1 else None


def _annotations(
    parts: dict[str, Rows], source: Source, classes: tuple[Path, tuple[str, ...]] | None
) -> Annotations:
    labels: list[str] = []
    ids: list[str] = []
    splits: list[str] = []
    known = class_in(classes[1], classes[0]) if classes else class_name
    for split, rows in parts.items():
        ids += rows.parse("id", _video_id)
        labels += rows.parse("template", lambda text: known(_template(text)))
        splits += [split] * len(rows)
    paths, notes = VideoIndex(source).locate([(name,) for name in ids])
    given = None if "" in parts else splits
    vocabulary = classes[1] if classes else None
    return Annotations(paths, "single_label", (labels,), given, (vocabulary,), notes=notes)
