"""DATA -> a collection: find the format, read it, number the classes, split the clips."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stadapter.data.annotations.formats import FORMATS
from stadapter.data.annotations.rows import listed
from stadapter.data.annotations.skip_list import leave_out
from stadapter.data.annotations.source import Annotations, DataConfig, Lists, Source
from stadapter.data.annotations.split import make_split
from stadapter.data.annotations.subset import take_subset
from stadapter.data.annotations.table import SPLITS, ClipTable, Collection, class_order
from stadapter.data.labels import VOCABULARIES, LabelSpace
from stadapter.progress import console


def load_collection(
    data: str | Path,
    config: DataConfig | None = None,
    *,
    seed: int = 0,
    space: LabelSpace | None = None,
) -> Collection:
    """Read a collection in any of `FORMATS`.

    Args:
        data: a folder or a list.
        config: how to read it, which clips to leave out, and how many to train on.
        seed: of the split that is made where none is given, and of the clips to train on.
        space: the classes to index by, for scoring with a trained model; by default those of the
            collection's own list of classes, or else those that occur.

    Raises:
        FileNotFoundError: `data` or what `config` names does not exist, or none of the videos.
        ValueError: the collection cannot be read or used; the message names file, line and column.
    """
    config = config or DataConfig()
    source = Source(
        Path(data),
        None if config.videos is None else Path(config.videos),
        None if config.classes is None else Path(config.classes),
    )
    _check_exist(source)
    name, lists = find_format(source.data, config.format)
    found = FORMATS[name].read(lists, source)
    if not len(found.paths):
        raise ValueError(f"{data} has no clips")
    own = space is None
    space = space or _space(found, source.data)
    _check_known(found, space, source.data, own)
    labels = _numbers(found, space)
    n = len(found.paths)
    starts, ends = np.full(n, found.starts), np.full(n, found.ends)
    splits: dict[str, ClipTable] = {}
    if found.splits is None:
        for split, rows in make_split(found.paths, labels, space, starts, seed).items():
            if len(rows):
                paths = [found.paths[i] for i in rows.tolist()]
                splits[split] = ClipTable(paths, labels[rows], space, starts[rows], ends[rows])
    else:
        code = {split: i for i, split in enumerate(SPLITS)}
        codes = np.fromiter(map(code.__getitem__, found.splits), np.int8, n)
        for split in SPLITS:
            mask = codes == code[split]
            if mask.any():
                paths = list(compress(found.paths, mask.tolist()))
                splits[split] = ClipTable(paths, labels[mask], space, starts[mask], ends[mask])
    notes = (*lists.notes, *found.notes, *(_unused(found, space) if own else ()))
    collection = Collection(splits, space, found.splits is None, name, notes)
    if config.skip_list is not None:
        collection, left_out = leave_out(collection, config.skip_list)
        collection = replace(collection, notes=(*notes, str(left_out)))
    return take_subset(
        collection,
        train_fraction=config.train_fraction,
        clips_per_class=config.clips_per_class,
        seed=seed,
    )


def find_format(data: Path, format: str | None = None) -> tuple[str, Lists]:
    """The format's name, and the lists that DATA stands for.

    Raises:
        ValueError: DATA is not of this format, or of none.
    """
    if format is not None:
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
        lists = FORMATS[format].find(data, True)
        if lists is None:
            raise ValueError(f"{data} is not in format {format}: {FORMATS[format].expects}")
        return format, lists
    for name, known in FORMATS.items():
        lists = known.find(data, False)
        if lists is not None:
            return name, lists
    raise ValueError(
        f"{data} is in no known format; name it with --format if it is one of these:"
        + "".join(f"\n  {name}: {known.expects}" for name, known in FORMATS.items())
    )


def announce_collection(collection: Collection, data: str | Path) -> None:
    """Print how `data` was read: its format, classes and clips, and what to know of them."""
    sizes = ", ".join(f"{len(table):,} {split}" for split, table in collection.splits.items())
    lines = [
        f"{data} read as {collection.format}; {collection.space.summary()}; clips: {sizes}",
        *(f"note: {note}" for note in collection.notes),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def check_trainable(collection: Collection, data: str | Path) -> None:
    """Refuse a collection that training cannot use.

    Raises:
        ValueError: no training or validation clips; or, with one label per clip, a class that
            other splits have and training never sees.
    """
    for split in ("train", "val"):
        if split not in collection.splits:
            raise ValueError(
                f"{data} has no clips in split {split!r}; training needs train and val"
            )
    if collection.space.task != "single_label":  # long tails: some classes are in one split only
        return
    K = collection.space.num_outputs
    counts = {
        split: np.bincount(table.labels, minlength=K) for split, table in collection.splits.items()
    }
    unseen = (counts["train"] == 0) & (np.sum(list(counts.values()), axis=0) > 0)
    if unseen.any():
        names = list(compress(collection.class_names, unseen.tolist()))
        raise ValueError(f"{data} has no training clips of class {listed(names)}")


def _check_exist(source: Source) -> None:
    if not source.data.exists():
        raise FileNotFoundError(
            f"data {source.data} does not exist; give a folder per class or a list of clips"
        )
    if source.videos is not None and not source.videos.is_dir():
        raise FileNotFoundError(f"--videos {source.videos} is no folder")
    if source.classes is not None and not source.classes.is_file():
        raise FileNotFoundError(f"--classes {source.classes} is no file")


def _flat(found: Annotations, k: int) -> Sequence[str]:
    """Every class name that occurs in a vocabulary, in the order of the clips."""
    labels = found.labels[k]
    return list(chain.from_iterable(labels)) if found.task == "multi_label" else labels


def _space(found: Annotations, data: Path) -> LabelSpace:
    vocabularies = [
        found.vocabularies[k] or class_order(_flat(found, k)) for k in range(len(found.labels))
    ]
    space = LabelSpace(found.task, tuple(vocabularies))
    least = 1 if found.task == "multi_label" else 2
    if all(len(names) < least for names in vocabularies):
        names = ", ".join(repr(name) for names in vocabularies for name in names) or "none"
        raise ValueError(
            f"{data} has one class only ({names}); a classifier needs at least {least}"
        )
    return space


def _check_known(found: Annotations, space: LabelSpace, data: Path, own: bool) -> None:
    if found.task != space.task:
        raise ValueError(
            f"{data} has labels of task {found.task}, but the model was trained for {space.task}; "
            f"a table for it has {_columns(space)}"
        )
    for k, names in enumerate(space.vocabularies):
        unknown = sorted(set(_flat(found, k)) - set(names))
        if unknown:
            first = next(i for i, x in enumerate(found.labels[k]) if unknown[0] in _as_list(x))
            whose = "its list of classes" if own else "the model"
            raise ValueError(
                f"{data} has {listed(unknown)}, which {whose} does not know; it knows "
                f"{listed(names)}. The first clip with {unknown[0]!r}: {found.paths[first]}"
            )


def _columns(space: LabelSpace) -> str:
    names = VOCABULARIES[space.task]
    return "column labels" if space.task == "multi_label" else f"column {' and '.join(names)}"


def _as_list(label: Any) -> list[str]:
    return [label] if isinstance(label, str) else list(label)


def _numbers(found: Annotations, space: LabelSpace) -> NDArray[Any]:
    """The labels as in `ClipTable`."""
    n = len(found.paths)
    indices = [{name: i for i, name in enumerate(names)} for names in space.vocabularies]
    if found.task == "multi_label":
        labels = np.zeros((n, space.num_outputs), bool)
        rows = np.repeat(np.arange(n), [len(names) for names in found.labels[0]])
        labels[rows, [indices[0][name] for name in _flat(found, 0)]] = True
        return labels
    columns = [
        np.fromiter(map(index.__getitem__, names), np.int64, n)
        for index, names in zip(indices, found.labels, strict=True)
    ]
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)


def _unused(found: Annotations, space: LabelSpace) -> tuple[str, ...]:
    notes = []
    for k, names in enumerate(space.vocabularies):
        used = set(_flat(found, k))
        unused = [name for name in names if name not in used]
        if unused:
            what = VOCABULARIES[space.task][k]
            notes.append(f"{len(unused)} of {len(names)} {what} classes have no clips")
    return tuple(notes)
