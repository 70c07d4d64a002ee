"""An order of classes in which those that are mistaken for each other stand side by side."""

from collections.abc import Sequence

import numpy as np


def similarity_order(counts: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of the classes, by average-linkage clustering of a confusion matrix.

    Two classes are similar as far as clips of one are taken for the other, in share of the class.
    The two most similar groups are joined, end to end where that is most similar, until no two are
    ever mistaken for each other; what is left keeps its order.

    Args:
        counts: (K, K), true classes down.

    >>> similarity_order([[9, 0, 1], [0, 9, 0], [2, 0, 8]])
    [0, 2, 1]
    """
    table = np.asarray(counts, dtype=np.float64)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    similar = shares + shares.T
    np.fill_diagonal(similar, 0)
    between = similar.copy()
    groups = {k: [k] for k in range(len(table))}
    while len(groups) > 1:
        a, b = sorted(divmod(int(between.argmax()), len(table)))
        if between[a, b] <= 0:
            break
        sizes = len(groups[a]), len(groups[b])
        joined = (sizes[0] * between[a] + sizes[1] * between[b]) / sum(sizes)
        between[a], between[:, a] = joined, joined
        between[b], between[:, b], between[a, a] = 0, 0, 0
        groups[a] = _end_to_end(groups[a], groups.pop(b), similar)
    return [k for group in sorted(groups.values(), key=min) for k in group]


def _end_to_end(a: list[int], b: list[int], similar: np.ndarray) -> list[int]:
    """Both groups in a row, either turned round, so that the most similar ends meet."""
    ways = [(a, b), (a, b[::-1]), (a[::-1], b), (a[::-1], b[::-1])]
    left, right = max(ways, key=lambda way: similar[way[0][-1], way[1][0]])
    return left + right
