"""A split where none is given: by file, by class, from a seed."""

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stadapter.data.labels import LabelSpace

VAL_FRACTION = 0.2


def make_split(
    paths: Sequence[str], labels: NDArray[Any], space: LabelSpace, starts: NDArray[Any], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Clips of "train" and of "val": a fifth of each class, at least one file where there are two.

    All clips of one file stay on one side. A file with several classes counts for the rarest of
    them, so that rare classes are on both sides where they can be. Where that leaves validation
    with less than half of its share, because hardly two files have the same rarest class, a fifth
    of all files is taken instead. The order of the clips does not matter; equal seeds give equal
    splits, sorted by class, file and start.

    Args:
        paths: n files.
        labels: as in `ClipTable`.
        space: the classes.
        starts: seconds, (n,).
        seed: of the choice.
    """
    files = sorted(set(paths))
    number = {path: i for i, path in enumerate(files)}
    file_of = np.fromiter((number[path] for path in paths), np.int64, len(paths))
    members = _files_by_class(file_of, labels, space)
    rng = Random(seed)
    chosen: list[int] = []
    for group in members:
        num_val = max(1, round(len(group) * VAL_FRACTION)) if len(group) > 1 else 0
        chosen += [group[i] for i in rng.sample(range(len(group)), num_val)]
    simple = space.task == "single_label" and len(files) == len(paths)
    if not simple and len(chosen) < len(files) * VAL_FRACTION / 2:
        chosen = rng.sample(range(len(files)), max(1, round(len(files) * VAL_FRACTION)))
    in_val = np.zeros(len(files), bool)
    in_val[chosen] = True
    class_of = np.empty(len(files), np.int64)
    for k, group in enumerate(members):
        class_of[group] = k
    order = np.lexsort((starts, file_of, class_of[file_of]))
    val = in_val[file_of[order]]
    return {"train": order[~val], "val": order[val]}


def _files_by_class(
    file_of: NDArray[np.int64], labels: NDArray[Any], space: LabelSpace
) -> list[list[int]]:
    """Files of each class, every file once, with its rarest class; the last are those without."""
    n, K = len(file_of), space.num_outputs
    if space.task == "multi_label":
        clips, classes = np.nonzero(labels)
    else:
        offsets = np.cumsum([0, *(len(names) for names in space.vocabularies[:-1])])
        classes = (labels.reshape(n, -1) + offsets).ravel()
        clips = np.repeat(np.arange(n), len(offsets))
    pairs = np.unique(file_of[clips] * K + classes)
    file, label = pairs // K, pairs % K
    count = np.bincount(label, minlength=K)
    order = np.lexsort((label, count[label], file))
    file, first = np.unique(file[order], return_index=True)
    rarest = np.full(int(file_of.max()) + 1, K)
    rarest[file] = label[order][first]
    order = np.argsort(rarest, kind="stable")
    bounds = np.searchsorted(rarest[order], np.arange(1, K + 1))
    return [group.tolist() for group in np.split(order, bounds)]
