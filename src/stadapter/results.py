"""What scored clips come to: metrics.json, predictions.csv and broken.csv of a run."""

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stadapter.atomic import write_json, write_text
from stadapter.checkpoint import checkpoint_facts, library_versions
from stadapter.data import ClipTable, count_by_reason, skipped, write_broken
from stadapter.evaluate import Scores
from stadapter.metrics import (
    bootstrap_intervals,
    by_duration,
    by_source,
    calibration,
    group_scores,
)
from stadapter.run import RunFolder

PREDICTION_COLUMNS = ("path", "label", "prediction", "score", "label_score", "correct")
"""First columns of predictions.csv; one column of scores per class follows."""


def compute_metrics(scores: Scores, table: ClipTable) -> dict[str, Any]:
    """The task's metrics, how sure they are, and what they were computed on.

    Each entry is described in docs/numbers.md.
    """
    task, p, labels = scores.task, scores.probabilities, scores.labels
    missing = skipped(scores.broken)
    paths = [table.paths[clip] for clip in scores.clips.tolist()]
    return {
        **task.metrics(p, labels),
        "bootstrap": bootstrap_intervals(task, p, labels),
        "single_view": _single_view(scores),
        "calibration": calibration(task, p, labels, _halves(paths)),
        "by_duration": _by_duration(scores),
        "by_source": _by_source(scores, paths),
        "num_clips": len(labels),
        "num_broken": len(missing),
        "broken": [{"path": b.path, "reason": b.reason} for b in missing],
        "num_salvaged": len(scores.broken) - len(missing),
        "broken_reasons": count_by_reason(scores.broken),
        "clip_list_sha256": table.list_hash(),
        "class_names": list(scores.space.class_names),
        "label_space": scores.space.to_dict(),
        "seconds": round(scores.seconds, 2),
    }


def _single_view(scores: Scores) -> dict[str, Any] | None:
    """The task's numbers for the middle view alone; None if there was no other."""
    if scores.single_view is None:
        return None
    metrics = scores.task.metrics(scores.single_view, scores.labels)
    return {name: metrics[name] for name in scores.task.numbers}


def _halves(paths: Sequence[str]) -> Tensor:
    """Two halves of the clips that depend on their files' names alone, so that windows of one file
    stay together: bool (n,)."""
    digests = (hashlib.sha256(PurePath(path).name.encode()).digest() for path in paths)
    return torch.tensor([digest[0] % 2 == 0 for digest in digests], dtype=torch.bool)


def _by_duration(scores: Scores) -> list[dict[str, Any]]:
    if scores.durations is None:
        return []
    return [
        {"from_seconds": round(low, 3), "to_seconds": round(high, 3)}
        | group_scores(scores.task, scores.probabilities, scores.labels, clips)
        for low, high, clips in by_duration(scores.durations)
    ]


def _by_source(scores: Scores, paths: Sequence[str]) -> list[dict[str, Any]]:
    labels = [scores.space.label_name(label) for label in scores.labels.numpy()]
    return [
        {"source": name} | group_scores(scores.task, scores.probabilities, scores.labels, clips)
        for name, clips in by_source(paths, labels).items()
    ]


def write_results(
    run: RunFolder, scores: Scores, table: ClipTable, context: dict[str, Any]
) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and broken.csv, and return the metrics.

    `context` says what the scores were computed on (split, views, resolution).
    """
    metrics = compute_metrics(scores, table) | context
    metrics |= {"checkpoint": checkpoint_facts(run.path), "versions": library_versions()}
    write_text(run.predictions, predictions_csv(scores, table))
    write_broken(run.broken, context["split"], scores.broken)
    write_json(run.metrics, metrics)
    return metrics


def predictions_csv(scores: Scores, table: ClipTable) -> str:
    """One line per scored clip: path, label, most probable label, the probabilities of both,
    whether they are the same, and the score of each class.

    Clips that are windows of their files have `start` and `end` in seconds behind the path.
    """
    task, name = scores.task, scores.space.label_name
    scored = table.take(scores.clips.numpy())
    trimmed = not bool(np.isnan([scored.starts, scored.ends]).all())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first, *others = PREDICTION_COLUMNS
    columns = [first, *(("start", "end") if trimmed else ()), *others]
    writer.writerow([*columns, *(f"score:{name}" for name in scores.space.class_names)])
    predictions = scores.predictions
    rows = zip(
        scored.paths,
        zip(scored.starts.tolist(), scored.ends.tolist(), strict=True),
        scores.labels.numpy(),
        predictions.numpy(),
        task.label_probability(scores.probabilities, predictions).tolist(),
        task.label_probability(scores.probabilities, scores.labels).tolist(),
        task.correct(scores.probabilities, scores.labels).tolist(),
        scores.probabilities.tolist(),
        strict=True,
    )
    for path, times, label, prediction, score, label_score, correct, row in rows:
        writer.writerow(
            [
                path,
                *(("" if math.isnan(t) else repr(t) for t in times) if trimmed else ()),
                name(label),
                name(prediction),
                f"{score:.6f}",
                f"{label_score:.6g}",  # of many labels it is small
                int(correct),
                *(f"{value:.6f}" for value in row),
            ]
        )
    return text.getvalue()


def read_predictions(path: Path) -> list[dict[str, str]]:
    """The rows of a predictions.csv, by column name."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
