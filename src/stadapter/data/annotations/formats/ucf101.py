"""UCF-101: trainlist01.txt with `Class/video.avi 1`, testlist01.txt without the number."""

import re
from pathlib import Path

from stadapter.data.annotations.rows import Rows, class_in, read_lines
from stadapter.data.annotations.source import Annotations, Format, Lists, Source, list_folders
from stadapter.data.annotations.videos import VideoIndex

_LIST = re.compile(r"(train|test)list(\d+)\.txt", re.IGNORECASE)


def _find(data: Path, forced: bool) -> Lists | None:
    named = _LIST.fullmatch(data.name) if data.is_file() else None
    folders = list_folders(data) if data.is_dir() else [data.absolute().parent]
    if data.is_file() and named is None:
        return None
    number = int(named[2]) if named else 1
    for folder in folders:
        files = {}
        for entry in sorted(folder.iterdir()):
            match = _LIST.fullmatch(entry.name)
            if match and int(match[2]) == number:
                files["train" if match[1].lower() == "train" else "val"] = entry
        if files:
            if named and named[1].lower() == "test":
                files = {"val": files["val"]}
            note = f"split {number}; its test list is used as val"
            return Lists(dict(sorted(files.items())), (note,))
    return None


def _read(lists: Lists, source: Source) -> Annotations:
    folder = next(iter(lists.files.values())).absolute().parent
    class_file = source.classes or folder / "classInd.txt"
    names = _class_names(class_file) if class_file.is_file() else None
    stems: list[tuple[str]] = []
    labels: list[str] = []
    splits: list[str] = []
    for split, file in lists.files.items():
        rows = _read_rows(file, names)
        labels += (
            rows.parse("class", class_in(names, class_file)) if names else rows.columns["class"]
        )
        stems += [(stem,) for stem in rows.columns["stem"]]
        splits += [split] * len(rows)
    paths, notes = VideoIndex(source).locate(stems, labels)
    return Annotations(paths, "single_label", (labels,), splits, (names,), notes=notes)


UCF101 = Format("trainlist01.txt and testlist01.txt, or a folder with them", _find, _read)


def _read_rows(file: Path, names: tuple[str, ...] | None) -> Rows:
    lines, numbers = read_lines(file)
    if not lines:
        raise ValueError(f"{file} has no lines")
    rows = Rows(file, {"class": [], "stem": []}, lambda row: f"line {numbers[row]}")
    for line, number in zip(lines, numbers, strict=True):
        match = re.fullmatch(r"(.+?)/([^/]+?)(?:\s+(\S+))?", line.strip())
        if match is None:
            raise ValueError(f"{file}, line {number}: {line[:80]!r} must be `Class/video.avi 1`")
        folder, video, index = match.groups()
        rows.columns["class"].append(folder)
        rows.columns["stem"].append(Path(video).stem)
        if index is not None and names is not None:
            _check_index(index, folder, names, f"{file}, line {number}")
    return rows


def _check_index(index: str, folder: str, names: tuple[str, ...], place: str) -> None:
    if not (index.isascii() and index.isdecimal()) or not 1 <= int(index) <= len(names):
        raise ValueError(
            f"{place}: class index {index} is out of range; classInd.txt has 1 to {len(names)}"
        )
    if names[int(index) - 1] != folder:
        raise ValueError(
            f"{place}: class {index} is {names[int(index) - 1]!r} in classInd.txt, but the folder "
            f"is {folder!r}"
        )


def _class_names(file: Path) -> tuple[str, ...]:
    lines, numbers = read_lines(file)
    names: list[str] = []
    for line, number in zip(lines, numbers, strict=True):
        index, _, name = line.strip().partition(" ")
        if index != str(len(names) + 1) or not name.strip():
            raise ValueError(
                f"{file}, line {number}: {line!r} must be `{len(names) + 1} ClassName`"
            )
        names.append(name.strip())
    return tuple(names)
