"""Calibration: whether what is said with 80% is so in 80% of the cases.

Expected calibration error over 15 bins of equal width, and temperature scaling: Guo et al., On
Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599), sections 2 and 4.2. The logits
whose temperature is fitted are the logs of the probabilities, which are means over the views.

Letters: n clips, K classes, m statements (one of each clip, or n times K of a multi_label task).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stadapter.tasks import Task

NUM_BINS = 15
TEMPERATURES = (0.05, 20.0)
"""Where the best temperature is looked for."""


def calibration(task: Task, probabilities: Tensor, labels: Tensor, half: Tensor) -> dict[str, Any]:
    """How far stated probabilities can be believed, and what one temperature would mend.

    Args:
        task: of the labels.
        probabilities: (n, K)
        labels: of n clips.
        half: bool (n,); a temperature is fitted on either half and judged on the other.

    Returns:
        Plain JSON: `num_bins`, `bins`, `ece` and `nll` (nats, mean over clips) as they are;
        `temperature` with its `value`, and `ece` and `nll` on the very clips it was fitted on;
        `cross_fitted` with the same of clips that the fit did not see, None if a half is empty.
    """
    fitted = fit_temperature(task, probabilities, labels)
    return {
        "num_bins": NUM_BINS,
        **_judged(task, probabilities, labels),
        "bins": reliability(*task.claims(probabilities, labels)),
        "temperature": {
            "value": round(fitted, 4),
            "fitted_on": "these clips, so optimistic",
            **_judged(task, task.tempered(probabilities, fitted), labels),
        },
        "cross_fitted": _cross_fitted(task, probabilities, labels, half),
    }


def _cross_fitted(
    task: Task, probabilities: Tensor, labels: Tensor, half: Tensor
) -> dict[str, Any] | None:
    if half.all() or not half.any():
        return None
    mended, values = torch.empty_like(probabilities), []
    for part in (half, ~half):
        values.append(fit_temperature(task, probabilities[part], labels[part]))
        mended[~part] = task.tempered(probabilities[~part], values[-1])
    return {
        "temperatures": [round(value, 4) for value in values],
        "num_clips": [int(half.sum()), int((~half).sum())],
        **_judged(task, mended, labels),
        "bins": reliability(*task.claims(mended, labels)),
    }


def _judged(task: Task, probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        "ece": round(calibration_error(*task.claims(probabilities, labels)), 6),
        "nll": round(float(task.surprise(probabilities, labels).mean()), 6),
    }


def reliability(
    stated: Tensor, outcome: Tensor, num_bins: int = NUM_BINS
) -> list[dict[str, float | int | None]]:
    """A row for each bin of stated probability, from 0 to 1.

    Args:
        stated: probabilities, float (m,).
        outcome: whether it was so, bool (m,).
        num_bins: bins of equal width; the last one holds 1.

    Returns:
        Rows with `from`, `to`, `count`, and the means `stated` and `observed`, None in empty bins.
    """
    counts, sums, hits = _bins(stated, outcome, num_bins)
    return [
        {
            "from": round(b / num_bins, 6),
            "to": round((b + 1) / num_bins, 6),
            "count": int(counts[b]),
            "stated": round(float(sums[b] / counts[b]), 6) if counts[b] else None,
            "observed": round(float(hits[b] / counts[b]), 6) if counts[b] else None,
        }
        for b in range(num_bins)
    ]


def calibration_error(stated: Tensor, outcome: Tensor, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error, 0 to 1: |stated - observed| of each bin, weighted by its count.

    torchmetrics puts a probability of exactly 1 into a bin of its own; here it belongs to the last
    one, as in the paper.
    """
    _, sums, hits = _bins(stated, outcome, num_bins)
    return float((sums - hits).abs().sum() / len(stated))


def _bins(stated: Tensor, outcome: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each bin: count, sum of the stated probabilities, number of outcomes; float64 (bins,)."""
    places = (stated.double() * num_bins).long().clamp(0, num_bins - 1)
    values = torch.stack([torch.ones_like(stated), stated, outcome.to(stated)]).double()
    sums = torch.zeros(3, num_bins, dtype=torch.float64).index_add(1, places, values)
    return sums[0], sums[1], sums[2]


def fit_temperature(task: Task, probabilities: Tensor, labels: Tensor) -> float:
    """The temperature that makes the labels most probable, within `TEMPERATURES`.

    The loss is convex in 1 / temperature, so it has one valley in its logarithm as well.
    """

    def loss(log_temperature: float) -> float:
        mended = task.tempered(probabilities, math.exp(log_temperature))
        return float(task.surprise(mended, labels).double().mean())

    low, high = map(math.log, TEMPERATURES)
    return math.exp(_lowest(loss, low, high))


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, by golden sections, to 1e-4 of the interval."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(20):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = function(b)
    return (low + high) / 2
