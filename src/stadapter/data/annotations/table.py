"""One table of clips, whatever it was filled from, and the collection of such tables.

The table holds columns in a few buffers instead of objects per clip: a million clips stay small,
and forked data workers share them, because reading a column writes nothing into it.

Letters: n clips, K classes.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from stadapter.data.labels import VOCABULARIES, LabelSpace, join_names

SPLITS = ("train", "val", "test")
CLASS_LIST = "class_list"
"""What column `split` of a written collection says in rows that name a class, not a clip."""


class PathColumn(Sequence[str]):
    """Immutable strings, UTF-8 end to end in one buffer; takes no object per string."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """Copy the strings.

        Raises:
            ValueError: a string cannot be written as UTF-8.
        """
        paths = list(paths)
        text = "".join(paths)
        try:
            self._text = text.encode()
        except UnicodeEncodeError:
            bad = next(path for path in paths if any("\ud800" <= c <= "\udfff" for c in path))
            raise ValueError(f"a file's name is no UTF-8: {bad!r}; rename it") from None
        lengths = map(len, paths if text.isascii() else map(str.encode, paths))
        ends = accumulate(lengths, initial=0)
        self._offsets = np.fromiter(ends, np.int64, len(paths) + 1)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "PathColumn": ...

    def __getitem__(self, index: int | slice) -> "str | PathColumn":
        if isinstance(index, slice):
            return PathColumn(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]  # counts from the end and checks the range, as a list does
        return self._text[self._offsets[i] : self._offsets[i + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        begin = 0
        for end in map(int, self._offsets[1:]):
            yield self._text[begin:end].decode()
            begin = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PathColumn):
            return NotImplemented
        return self._text == other._text and np.array_equal(self._offsets, other._offsets)

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"PathColumn({list(self[:3])}{'...' if len(self) > 3 else ''}, {len(self)} paths)"


def _unbounded() -> NDArray[np.float64]:
    return np.array(np.nan)


@dataclass(frozen=True, eq=False)
class ClipTable:
    """Clips with their labels: entry i of every column belongs to clip i.

    Sequences and scalars given for a column become its type.
    """

    paths: Sequence[str]
    """Absolute path of each clip's file."""
    labels: NDArray[Any]
    """By task: single_label int64 (n,), multi_label bool (n, K), verb_noun int64 (n, 2)."""
    space: LabelSpace
    """The classes that the labels index."""
    starts: NDArray[np.float64] = field(default_factory=_unbounded)
    """Where each clip starts in its file, seconds (n,); nan is the file's beginning."""
    ends: NDArray[np.float64] = field(default_factory=_unbounded)
    """Where each clip ends in its file, seconds (n,); nan is the file's end."""

    def __post_init__(self) -> None:
        paths = self.paths if isinstance(self.paths, PathColumn) else PathColumn(self.paths)
        n = len(paths)
        kind = np.dtype(bool if self.space.task == "multi_label" else np.int64)
        shape = {"single_label": (n,), "multi_label": (n, self.space.num_outputs)}
        expected = shape.get(self.space.task, (n, len(self.space.vocabularies)))
        labels: NDArray[Any] = np.asarray(self.labels, dtype=kind)
        if n == 0:
            labels = labels.reshape(expected)
        if labels.shape != expected:
            raise ValueError(
                f"labels of {n} clips of task {self.space.task} have shape {expected}, not "
                f"{labels.shape}"
            )
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "labels", labels)
        for name in ("starts", "ends"):
            seconds = np.asarray(getattr(self, name), dtype=np.float64)
            if seconds.shape not in ((), (n,)):
                raise ValueError(f"{name} of {n} clips have shape {(n,)}, not {seconds.shape}")
            object.__setattr__(self, name, np.full(n, seconds))

    def __len__(self) -> int:
        return len(self.paths)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClipTable):
            return NotImplemented
        return (
            self.space == other.space
            and self.paths == other.paths
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.starts, other.starts, equal_nan=True)
            and np.array_equal(self.ends, other.ends, equal_nan=True)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the logits."""
        return self.space.class_names

    def label_names(self, clip: int) -> tuple[str, ...]:
        """Names of a clip's classes: one, any number, or verb and noun."""
        return self.space.label_names(self.labels[clip])

    def label_name(self, clip: int) -> str:
        """A clip's label to read: "cup", "run|laugh", "take|cup"."""
        return self.space.label_name(self.labels[clip])

    def take(self, clips: Sequence[int] | NDArray[np.int64]) -> "ClipTable":
        """The table of these clips, in this order."""
        rows = np.asarray(clips, dtype=np.int64)
        paths = PathColumn(self.paths[i] for i in rows)
        return ClipTable(paths, self.labels[rows], self.space, self.starts[rows], self.ends[rows])

    def list_hash(self) -> str:
        """SHA-256 over file names, times and labels, in order: says which list a score is of."""
        digest = hashlib.sha256()
        for i, path in enumerate(self.paths):
            times = "".join(f"\t{x}" for x in _times(self, i)) if _is_trimmed(self, i) else ""
            name = path.rpartition(os.sep)[2]
            digest.update(f"{name}\t{self.label_name(i)}{times}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Collection:
    """The clips of each split, all with the same classes."""

    splits: dict[str, ClipTable]
    """Split name ("train", "val", "test") -> its clips; absent when it has none."""
    space: LabelSpace
    """The classes."""
    made_split: bool
    """Whether the split was made here rather than given."""
    format: str = field(default="csv", compare=False)
    """Name of the format that it was read as."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What whoever uses it should know: missing videos, lists that were left out."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the logits."""
        return self.space.class_names

    def whole(self) -> ClipTable:
        """All splits as one table."""
        tables = list(self.splits.values())
        return ClipTable(
            paths=PathColumn(path for table in tables for path in table.paths),
            labels=np.concatenate([table.labels for table in tables]),
            space=self.space,
            starts=np.concatenate([table.starts for table in tables]),
            ends=np.concatenate([table.ends for table in tables]),
        )

    def list_hash(self) -> str:
        """SHA-256 over the clips of all splits: file names, times, labels and order."""
        hashes = [f"{split} {table.list_hash()}" for split, table in self.splits.items()]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def to_csv(self) -> str:
        """The collection as the CSV that `load_collection` reads, with absolute paths.

        Classes that the clips alone would not give (a class without clips, an order of their own)
        come first, in rows whose `split` is "class_list".
        """
        labels = VOCABULARIES[self.space.task]
        labels = ("labels",) if self.space.task == "multi_label" else labels
        trimmed = any(not np.isnan([t.starts, t.ends]).all() for t in self.splits.values())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", *(("start", "end") if trimmed else ()), *labels, "split"])
        before = [""] * (3 if trimmed else 1)
        if not self._clips_give_the_classes():
            for k, names in enumerate(self.space.vocabularies):
                for name in names:
                    cells = [""] * len(labels)
                    cells[k] = join_names([name]) if labels == ("labels",) else name
                    writer.writerow([*before, *cells, CLASS_LIST])
        for split, table in self.splits.items():
            for i, path in enumerate(table.paths):
                times = _times(table, i) if trimmed else []
                names = table.label_names(i)
                cells = [join_names(names)] if labels == ("labels",) else list(names)
                writer.writerow([path, *times, *cells, split])
        return text.getvalue()

    def _clips_give_the_classes(self) -> bool:
        """Whether the classes are those that occur, in the order that reading gives them."""
        tables = self.splits.values()
        for k, names in enumerate(self.space.vocabularies):
            if self.space.task == "multi_label":
                occurs = np.any([table.labels.any(0) for table in tables], axis=0)
            else:
                used = [np.atleast_2d(table.labels.T)[k] for table in tables]
                occurs = np.bincount(np.concatenate(used), minlength=len(names)) > 0
            if not occurs.all() or names != class_order(names):
                return False
        return True


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names as classes: sorted, by value where all of them are whole numbers."""
    distinct = set(names)
    if all(name.isdecimal() and name.isascii() for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def _times(table: ClipTable, clip: int) -> list[str]:
    """Start and end in seconds as text that reads back exactly; nothing for nan."""
    both = (float(table.starts[clip]), float(table.ends[clip]))
    return ["" if np.isnan(seconds) else repr(seconds) for seconds in both]


def _is_trimmed(table: ClipTable, clip: int) -> bool:
    return not (np.isnan(table.starts[clip]) and np.isnan(table.ends[clip]))
