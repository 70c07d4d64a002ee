"""EPIC-Kitchens-100: CSVs of actions with verb and noun, cut from long videos by timestamps."""

from pathlib import Path

import numpy as np

from stadapter.data.annotations.rows import (
    class_in,
    columns_named,
    read_delimited,
    read_header,
    seconds,
    whole_number,
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

COLUMNS = ("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")


def _is_list(file: Path) -> bool:
    wanted = {"video_id", "verb_class", "noun_class"}
    return file.suffix.lower() == ".csv" and wanted <= set(read_header(file))


def _read(lists: Lists, source: Source) -> Annotations:
    if source.classes is not None:
        raise ValueError(
            "--classes names one list of classes; EPIC-Kitchens' verb and noun classes are read "
            "from EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv beside the lists"
        )
    folder = next(iter(lists.files.values())).absolute().parent
    files = [_class_file(folder, "verb"), _class_file(folder, "noun")]
    vocabularies = tuple(_class_names(file) if file else None for file in files)
    verbs: list[str] = []
    nouns: list[str] = []
    ids: list[str] = []
    splits: list[str] = []
    starts, ends = [], []
    for split, file in lists.files.items():
        rows = read_delimited(file, columns_named(*COLUMNS))
        for column, labels, names, names_file in zip(
            ("verb_class", "noun_class"), (verbs, nouns), vocabularies, files, strict=True
        ):
            known = class_in(names, names_file) if names and names_file else _number
            labels += rows.parse(column, known)
        first, last = rows.times("start_timestamp", "stop_timestamp")
        for column in ("start_timestamp", "stop_timestamp"):
            rows.parse(column, _given)
        starts.append(first)
        ends.append(last)
        ids += rows.parse("video_id", _video_id)
        splits += [split] * len(rows)
    people = [name.partition("_")[0] for name in ids]
    paths, notes = VideoIndex(source).locate([(name,) for name in ids], people)
    unnamed = [kind for kind, file in zip(("verb", "noun"), files, strict=True) if file is None]
    notes += tuple(
        f"EPIC_100_{kind}_classes.csv is not beside the list; {kind} classes are named by number"
        for kind in unnamed
    )
    given = None if "" in lists.files else splits
    return Annotations(
        paths,
        "verb_noun",
        (verbs, nouns),
        given,
        vocabularies,
        np.concatenate(starts),
        np.concatenate(ends),
        notes,
    )


EPIC_KITCHENS = Format(
    f"a CSV with columns {', '.join(COLUMNS)}, or a folder with EPIC_100_train.csv and "
    "EPIC_100_validation.csv",
    lists_by_name(_is_list),
    _read,
)


def _number(text: str) -> str:
    return str(whole_number(text))


def _given(text: str) -> float:
    if not text.strip():
        raise ValueError("the time is missing")
    return seconds(text)


def _video_id(text: str) -> str:
    if not text.strip():
        raise ValueError("the video is missing")
    return text.strip()


def _class_file(folder: Path, kind: str) -> Path | None:
    found = [f for f in list_files(folder) if f.name.lower().endswith(f"{kind}_classes.csv")]
    return found[0] if len(found) == 1 else None


def _class_names(file: Path) -> tuple[str, ...]:
    """Names by number: columns id and key."""
    rows = read_delimited(file, columns_named("id", "key"))
    numbers = rows.parse("id", whole_number)
    for row, number in enumerate(numbers):
        if number != row:
            raise rows.error(row, "id", f"class {number} stands where class {row} is expected")
    return tuple(name.strip() for name in rows.columns["key"])
