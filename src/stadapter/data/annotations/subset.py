"""Fewer training clips, for few-shot training and for curves over the amount of data.

Every clip gets a place in an order that a seed makes, and a class keeps its first clips in that
order. So one rule serves every kind of label, no class is lost, and the clips of a smaller subset
are among those of a larger one. A clip's place depends on the seed, its path below the folder that
all training clips share and its times, and on nothing else: a collection that was moved, listed in
another order or robbed of some clips keeps its order.

Letters: n clips, K classes.
"""

import os
from dataclasses import replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from stadapter.data.annotations.table import ClipTable, Collection


def take_subset(
    collection: Collection,
    *,
    train_fraction: float = 1.0,
    clips_per_class: int | None = None,
    seed: int = 0,
) -> Collection:
    """The collection with some of its training clips, in their order; other splits untouched.

    A class keeps `clips_per_class` clips (all, where it has fewer), or the rounded fraction of its
    clips and at least one. A clip of several classes (several labels, verb and noun) stays if one
    of them keeps it; so such a subset is somewhat larger, and a class may keep more than it asked
    for. Clips without any label count as one more class. `notes` says what was kept.
    """
    table = collection.splits.get("train")
    if table is None or (train_fraction == 1 and clips_per_class is None):
        return collection
    kept = _chosen(table, train_fraction, clips_per_class, seed)
    if clips_per_class is None:
        rule = f"train_fraction {train_fraction:g}"
    else:
        rule = f"clips_per_class {clips_per_class}"
    counts = np.bincount(_clips_and_classes(table.take(kept))[1])
    counts = counts[counts > 0]
    low, high = int(counts.min()), int(counts.max())
    each = f"{low}" if low == high else f"{low} to {high}"
    note = (
        f"{rule}, seed {seed}: {len(kept):,} of {len(table):,} training clips are used, "
        f"{each} of each class"
    )
    return replace(
        collection,
        splits={**collection.splits, "train": table.take(kept)},
        notes=(*collection.notes, note),
    )


def _chosen(
    table: ClipTable, fraction: float, clips_per_class: int | None, seed: int
) -> NDArray[np.int64]:
    """Rows that stay, ascending."""
    clips, classes = _clips_and_classes(table)
    place = _places(table, seed)[clips]
    order = np.lexsort((place, classes))
    clips, classes = clips[order], classes[order]
    counts = np.bincount(classes)
    rank = np.arange(len(classes)) - (np.cumsum(counts) - counts)[classes]  # inside its class
    if clips_per_class is None:
        wanted = np.maximum(1, np.rint(counts * fraction))[classes]
    else:
        wanted = np.full(len(classes), clips_per_class)
    return np.unique(clips[rank < wanted])


def _clips_and_classes(table: ClipTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pair of a clip and a class of it; class K is that of clips without any."""
    if table.space.task == "multi_label":
        none = ~table.labels.any(1, keepdims=True)
        clips, classes = np.nonzero(np.hstack([table.labels, none]))
        return clips, classes
    labels = table.labels.reshape(len(table), -1)
    sizes = [len(names) for names in table.space.vocabularies]
    classes = labels + np.cumsum([0, *sizes[:-1]])
    return np.repeat(np.arange(len(table)), labels.shape[1]), classes.ravel()


def _places(table: ClipTable, seed: int) -> NDArray[np.uint64]:
    """A number for each clip, (n,), by which they are ordered."""
    shared = os.path.commonpath([min(table.paths), max(table.paths)])
    digests = bytearray()
    for path, start, end in zip(table.paths, table.starts, table.ends, strict=True):
        key = f"{seed}\t{path[len(shared) :]}\t{start}\t{end}"
        digests += blake2b(key.encode(), digest_size=8).digest()
    return np.frombuffer(bytes(digests), np.dtype(">u8"))
