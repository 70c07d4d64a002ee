"""The numbers themselves: functions of probabilities and labels, and of weights on the clips.

Letters: n clips, K classes, R resamples.
"""

import math
from typing import Any

import torch
from torch import Tensor

from stadapter._torchvision import ensure_torchvision

SMALLEST = torch.finfo(torch.float32).tiny
"""Probabilities below count as this one (1.2e-38) where their log is taken."""


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """95% interval of a proportion measured on n clips (Wilson 1927).

    >>> [round(x, 3) for x in wilson_interval(0.9, 100)]
    [0.826, 0.945]
    """
    z = 1.959964
    centre = accuracy + z * z / (2 * n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def average_precision(probabilities: Tensor, labels: Tensor) -> list[float | None]:
    """Of each column of (n, K): the mean, over the clips that have the class, of the precision
    among all clips that score at least as high; None without such clips."""
    ensure_torchvision()  # torchmetrics imports it
    from torchmetrics.functional.classification import binary_average_precision

    return [
        float(binary_average_precision(p, y.long())) if bool(y.any()) else None
        for p, y in zip(probabilities.T, labels.T, strict=True)
    ]


def classification_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-1, top-5, mean class accuracy, recall, precision and confusion matrix of one vocabulary.

    `top5` is null with fewer than six classes, where it could not fail. `mean_class` averages the
    recall of classes that have clips; others have no recall, and classes that were never predicted
    no precision.
    """
    K, said = probabilities.shape[1], probabilities.argmax(1)
    confusion = torch.bincount(labels * K + said, minlength=K * K).reshape(K, K)
    counts, predicted, hits = confusion.sum(1), confusion.sum(0), confusion.diag()
    recall = hits[counts > 0] / counts[counts > 0]
    top5 = _in_best_five(probabilities, labels)
    return {
        "top1": float((said == labels).float().mean()),
        "top5": None if top5 is None else float(top5.mean()),
        "mean_class": float(recall.mean()),
        "recall_per_class": _shares(hits, counts),
        "precision_per_class": _shares(hits, predicted),
        "confusion_matrix": confusion.tolist(),
    }


def classification_resampled(
    probabilities: Tensor, labels: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    """`top1`, `top5` (with six classes or more) and `mean_class` of (n, K), with each clip counted
    `weights` (R, n) times; float (R,) each."""
    clips, K = weights.sum(1), probabilities.shape[1]
    right = (probabilities.argmax(1) == labels).float()
    found = {"top1": weights @ right / clips}
    top5 = _in_best_five(probabilities, labels)
    if top5 is not None:
        found["top5"] = weights @ top5 / clips
    counts = weights.new_zeros(len(weights), K).index_add(1, labels, weights)
    hits = weights.new_zeros(len(weights), K).index_add(1, labels, weights * right)
    found["mean_class"] = torch.where(counts > 0, hits / counts, torch.nan).nanmean(1)
    return found


def resampled_average_precision(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Average precision of one class, with each clip counted `weights` times.

    Args:
        scores: float (n,)
        labels: bool (n,)
        weights: float (R, n)

    Returns:
        float (R,); nan where no clip that counts has the class.
    """
    order = scores.argsort(descending=True)
    falling = scores[order]
    # A clip ranks with all that score the same: behind the last of them.
    last = len(scores) - 1 - torch.searchsorted(falling.flip(0), falling)
    weights, true = weights[:, order], labels[order]
    above, true_above = weights.cumsum(1), (weights * true).cumsum(1)
    places = last[true]
    precision = true_above[:, places] / above[:, places].clamp(min=1)
    return (weights[:, true] * precision).sum(1) / weights[:, true].sum(1)


def _in_best_five(probabilities: Tensor, labels: Tensor) -> Tensor | None:
    """Whether each clip's class is among its five most probable, 0 or 1, float (n,); None with
    fewer than six classes."""
    if probabilities.shape[1] <= 5:
        return None
    return (probabilities.topk(5).indices == labels[:, None]).any(1).float()


def _shares(parts: Tensor, wholes: Tensor) -> list[float | None]:
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return [part / whole if whole else None for part, whole in pairs]
