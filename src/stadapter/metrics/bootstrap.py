"""The bootstrap: numbers on clips drawn again with replacement (Efron 1979), percentile intervals.

It says how much a score depends on which clips happened to be in the list, for numbers that have no
formula of their own (mean class accuracy, mAP). It knows nothing of the spread between training
runs, and takes clips for independent: several windows of one video make intervals too narrow.

Letters: n clips, K classes, R resamples.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stadapter.tasks import Task

RESAMPLES = 1000
SEED = 0
BUDGET = 300_000_000
"""Clips times classes times resamples up to which a ranking of clips is repeated for each class: a
few seconds. Larger lists of a multi_label task are resampled less often, at least 100 times."""
CHUNK = 8_000_000
"""Weights held at once."""


def bootstrap(
    task: Task,
    probabilities: Tensor,
    labels: Tensor,
    *,
    resamples: int | None = None,
    seed: int = SEED,
) -> dict[str, Tensor]:
    """The task's numbers on each resample of the clips.

    The same n, `resamples` and `seed` draw the same clips, so that two models are compared on the
    same resamples.

    Args:
        task: whose `numbers`.
        probabilities: (n, K)
        labels: of n clips.
        resamples: how many; by default as `default_resamples` says.
        seed: of the draws.

    Returns:
        Name -> float (R,), nan where a number is not defined.

    Raises:
        ValueError: `resamples` is below 1.
    """
    n, K = probabilities.shape
    resamples = default_resamples(task, n) if resamples is None else resamples
    if resamples < 1:
        raise ValueError(f"resamples ({resamples}) must be at least 1")
    columns = 1 if task.exclusive else K
    chunks = [
        task.resampled(probabilities, labels, weights)
        for weights in _draws(n, resamples, seed, max(1, CHUNK // (n * columns)))
    ]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def default_resamples(task: Task, num_clips: int) -> int:
    """1000; fewer where many clips have to be ranked for many classes."""
    if task.exclusive:
        return RESAMPLES
    return min(RESAMPLES, max(100, BUDGET // (num_clips * task.space.num_outputs)))


def bootstrap_intervals(task: Task, probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """As plain JSON: `resamples`, `seed`, and `interval95` of each of the task's numbers."""
    found = bootstrap(task, probabilities, labels)
    return {
        "resamples": default_resamples(task, len(probabilities)),
        "seed": SEED,
        "interval95": {name: interval95(values) for name, values in found.items()},
    }


def interval95(values: Tensor) -> list[float] | None:
    """From the 2.5th to the 97.5th percentile of float (R,), without nan; None if all are nan."""
    known = values[~values.isnan()].double()
    if not len(known):
        return None
    return [round(float(x), 6) for x in known.quantile(torch.tensor([0.025, 0.975]).double())]


def _draws(n: int, resamples: int, seed: int, most: int) -> Iterator[Tensor]:
    """How often each clip was drawn, float (r, n) with r up to `most`, R rows in all."""
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, resamples, most):
        rows = min(most, resamples - first)
        # A row at a time: then the draws do not depend on `most`.
        drawn = [torch.randint(n, (n,), generator=generator) for _ in range(rows)]
        yield torch.stack([torch.bincount(row, minlength=n) for row in drawn]).float()
