"""Collections as people have them -> one table of clips.

Two forms: a folder per class, with or without `train/` and `val/` above the classes; and a CSV with
header `path,label[,split]`, paths relative to the CSV. Where no split is given, a stratified one is
made from a seed. The table holds columns, not objects, so that it stays small in every worker.
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from stadapter.data.video import VIDEO_SUFFIXES, find_videos

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
VAL_FRACTION = 0.2


@dataclass(frozen=True)
class ClipTable:
    """Clips with their labels: column i of both belongs to clip i."""

    paths: tuple[str, ...]
    """Absolute path of each clip's file."""
    labels: tuple[int, ...]
    """Index of each clip's class."""
    class_names: tuple[str, ...]
    """Name of each class, sorted."""

    def __len__(self) -> int:
        return len(self.paths)

    def list_hash(self) -> str:
        """SHA-256 over file names and labels, in order: says which list a score belongs to."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels, strict=True):
            digest.update(f"{Path(path).name}\t{self.class_names[label]}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Collection:
    """The clips of each split, all with the same classes."""

    splits: dict[str, ClipTable]
    """Split name ("train", "val", "test") -> its clips; absent when it has none."""
    class_names: tuple[str, ...]
    """Name of each class, sorted."""
    made_split: bool
    """Whether the split was made here rather than given."""

    def whole(self) -> ClipTable:
        """All splits as one table."""
        tables = self.splits.values()
        return ClipTable(
            paths=tuple(path for table in tables for path in table.paths),
            labels=tuple(label for table in tables for label in table.labels),
            class_names=self.class_names,
        )

    def list_hash(self) -> str:
        """SHA-256 over the clips of all splits: file names, labels and order."""
        hashes = [f"{split} {table.list_hash()}" for split, table in self.splits.items()]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def to_csv(self) -> str:
        """The collection as the CSV that `load_collection` reads, with absolute paths."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "label", "split"])
        for split, table in self.splits.items():
            for path, label in zip(table.paths, table.labels, strict=True):
                writer.writerow([path, table.class_names[label], split])
        return text.getvalue()


def load_collection(
    data: str | Path, *, seed: int = 0, class_names: Sequence[str] | None = None
) -> Collection:
    """Read a folder per class or a CSV.

    Args:
        data: the folder or the CSV file.
        seed: of the stratified split that is made where none is given.
        class_names: the classes to index by, for scoring with a trained model; by default those
            that occur.

    Raises:
        FileNotFoundError: `data` does not exist.
        ValueError: no clips, a class without clips, a label that is missing or unknown, one class
            only; the message names the file and the line.
    """
    data = Path(data)
    if (data / "split.csv").is_file():  # a folder that `stadapter prepare` or `train` has written
        data = data / "split.csv"
    if data.is_dir():
        rows = _read_folder(data)
    elif data.is_file():
        rows = _read_csv(data)
    else:
        raise FileNotFoundError(
            f"data {data} does not exist; give a folder per class or a CSV file"
        )
    if class_names is None:
        class_names = sorted({row.label for row in rows})
        if len(class_names) < 2:
            raise ValueError(
                f"{data} has one class only ({class_names[0]!r}); a classifier needs at least 2"
            )
    else:
        unknown = sorted({row.label for row in rows} - set(class_names))
        if unknown:
            raise ValueError(
                f"{data} has {_listed(unknown)}, which the model does not know; it knows "
                f"{_listed(class_names)}"
            )
    made_split = all(row.split is None for row in rows)
    if made_split:
        rows = _stratified(rows, seed)
    return _collect(data, rows, tuple(class_names), made_split)


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    split: str | None


def _collect(
    data: Path, rows: Sequence[_Row], class_names: tuple[str, ...], made_split: bool
) -> Collection:
    index = {name: k for k, name in enumerate(class_names)}
    for row in rows:
        if _has_surrogates(row.path):
            raise ValueError(f"{data} has a file whose name is no UTF-8: {row.path!r}; rename it")
    splits = {}
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        if chosen:
            splits[split] = ClipTable(
                paths=tuple(row.path for row in chosen),
                labels=tuple(index[row.label] for row in chosen),
                class_names=class_names,
            )
    return Collection(splits, class_names, made_split)


def _read_folder(folder: Path) -> list[_Row]:
    children = _class_folders(folder)
    # A split folder holds class folders; a class that is really called "test" holds videos.
    splits = [
        c for c in children if c.name.lower() in _SPLIT_NAMES and not _has_videos(c, direct=True)
    ]
    if not splits:
        return _read_classes(folder, children, None)
    others = [c.name for c in children if c not in splits]
    if others:
        raise ValueError(
            f"{folder} mixes split folders with {_listed(others)}; put every class below "
            "train/ and val/, or none"
        )
    rows = []
    for split in splits:
        rows += _read_classes(split, _class_folders(split), _SPLIT_NAMES[split.name.lower()])
    return rows


def _read_classes(folder: Path, classes: Sequence[Path], split: str | None) -> list[_Row]:
    if not classes:
        raise ValueError(
            f"{folder} has no class folders; expected FOLDER/CLASS/clip.mp4 with at least 2 classes"
        )
    rows = []
    for class_folder in classes:
        videos = find_videos(class_folder)
        if not videos:
            raise ValueError(
                f"class folder {class_folder} has no videos; known suffixes are "
                f"{' '.join(sorted(VIDEO_SUFFIXES))}"
            )
        # Without the spaces around it, as in a CSV: the split that a run keeps is a CSV.
        label = class_folder.name.strip()
        if not label:
            raise ValueError(f"class folder {str(class_folder)!r} has only spaces for a name")
        rows += [_Row(str(path.absolute()), label, split) for path in videos]
    return rows


def _class_folders(folder: Path) -> list[Path]:
    return sorted(c for c in folder.iterdir() if c.is_dir() and not c.name.startswith("."))


def _has_videos(folder: Path, *, direct: bool) -> bool:
    entries: Iterable[Path] = folder.iterdir() if direct else folder.rglob("*")
    return any(path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() for path in entries)


def _read_csv(path: Path) -> list[_Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    header = reader.fieldnames or []
    missing = [column for column in ("path", "label") if column not in header]
    if missing:
        raise ValueError(
            f"{path}, line 1: column {' and '.join(missing)} is missing; the header must be "
            f"path,label[,split] but is {','.join(header)!r}"
        )
    root = path.absolute().parent
    rows = []
    try:
        for row in reader:
            rows.append(_csv_row(row, root, f"{path}, line {reader.line_num}", "split" in header))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path} has a header but no clips")
    return rows


def _csv_row(row: dict[str, str | None], root: Path, place: str, has_split: bool) -> _Row:
    if "" in row:
        raise ValueError(f"{place}: more columns than the header; quote paths that hold a comma")
    file, label = row["path"], (row["label"] or "").strip()
    if not file:
        raise ValueError(f"{place}: path is missing")
    if not label:
        raise ValueError(f"{place}: label is missing for {file}")
    split = None
    if has_split:
        given = (row["split"] or "").strip()
        split = _SPLIT_NAMES.get(given.lower())
        if split is None:
            raise ValueError(f"{place}: split {given!r} must be train, val or test")
    return _Row(os.path.normpath(root / file), label, split)


def _has_surrogates(text: str) -> bool:
    """Whether the name has bytes that are no UTF-8; they cannot be written to a CSV."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _stratified(rows: Sequence[_Row], seed: int) -> list[_Row]:
    """A fifth of each class, at least one clip where there are two, goes to validation."""
    rng = Random(seed)
    by_class: dict[str, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: row.path):
        by_class.setdefault(row.label, []).append(row)
    result = []
    for label in sorted(by_class):
        members = by_class[label]
        num_val = max(1, round(len(members) * VAL_FRACTION)) if len(members) > 1 else 0
        chosen = set(rng.sample(range(len(members)), num_val))
        result += [
            _Row(row.path, row.label, "val" if i in chosen else "train")
            for i, row in enumerate(members)
        ]
    return result


def check_trainable(collection: Collection, data: str | Path) -> None:
    """Refuse a collection that training cannot use.

    Raises:
        ValueError: no training or validation clips, or a class which training never sees.
    """
    for split in ("train", "val"):
        if split not in collection.splits:
            raise ValueError(
                f"{data} has no clips in split {split!r}; training needs train and val"
            )
    seen = Counter(collection.splits["train"].labels)
    unseen = [name for k, name in enumerate(collection.class_names) if not seen[k]]
    if unseen:
        raise ValueError(f"{data} has no training clips of class {_listed(unseen)}")


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
