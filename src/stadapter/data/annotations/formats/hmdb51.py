"""HMDB-51: a file per class and split, CLASS_test_split1.txt, with `video.avi 1` on each line."""

import re
from pathlib import Path

from stadapter.data.annotations.rows import Rows, read_lines
from stadapter.data.annotations.source import Annotations, Format, Lists, Source, list_folders
from stadapter.data.annotations.videos import VideoIndex

_LIST = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
ROLES = {"1": "train", "2": "val", "0": None}
"""What the number after a video says; 0 is not used in this split."""


def _find(data: Path, forced: bool) -> Lists | None:
    named = _LIST.fullmatch(data.name) if data.is_file() else None
    if data.is_file() and named is None:
        return None
    number = int(named[2]) if named else 1
    for folder in list_folders(data) if data.is_dir() else [data.absolute().parent]:
        matches = [(_LIST.fullmatch(entry.name), entry) for entry in sorted(folder.iterdir())]
        files = {m[1]: entry for m, entry in matches if m and int(m[2]) == number}
        if files:
            return Lists(files, (f"split {number}; its test clips are used as val",))
    return None


def _read(lists: Lists, source: Source) -> Annotations:
    stems: list[tuple[str]] = []
    labels: list[str] = []
    splits: list[str] = []
    for name, file in lists.files.items():
        rows = _read_rows(file)
        roles = rows.parse("role", _role)
        for stem, role in zip(rows.columns["stem"], roles, strict=True):
            if role is not None:
                stems.append((stem,))
                labels.append(name)
                splits.append(role)
    paths, notes = VideoIndex(source).locate(stems, labels)
    return Annotations(paths, "single_label", (labels,), splits, notes=notes)


HMDB51 = Format("files CLASS_test_split1.txt for every class, or a folder with them", _find, _read)


def _read_rows(file: Path) -> Rows:
    lines, numbers = read_lines(file)
    if not lines:
        raise ValueError(f"{file} has no lines")
    rows = Rows(file, {"stem": [], "role": []}, lambda row: f"line {numbers[row]}")
    for line, number in zip(lines, numbers, strict=True):
        fields = line.strip().rsplit(None, 1)
        if len(fields) < 2:
            raise ValueError(f"{file}, line {number}: {line[:80]!r} must be `video.avi 1`")
        rows.columns["stem"].append(Path(fields[0]).stem)
        rows.columns["role"].append(fields[1])
    return rows


def _role(text: str) -> str | None:
    if text not in ROLES:
        raise ValueError(f"{text!r} must be 1 (train), 2 (test) or 0 (not used)")
    return ROLES[text]
