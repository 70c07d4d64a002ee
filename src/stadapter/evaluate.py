"""Multi-view testing, metrics, per-clip results.

A clip's scores are the mean over its views of the probabilities that its task makes of the logits.
Every clip of the list is either scored once or named as broken.

Letters: n clips, V views, K classes.
"""

import csv
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stadapter.atomic import write_json, write_text
from stadapter.checkpoint import library_versions
from stadapter.data import (
    BrokenClip,
    BrokenLimit,
    ClipDataset,
    ClipTable,
    EpochSampler,
    LabelSpace,
    OnBroken,
    Preprocessing,
    SamplingConfig,
    TestReader,
    count_by_reason,
    make_loader,
    naming_killed_workers,
    skipped,
    write_broken,
)
from stadapter.device import Precision, autocast, default_num_workers, pick_device
from stadapter.model import VideoClassifier
from stadapter.progress import progress_bar
from stadapter.run import RunFolder
from stadapter.tasks import Task, make_task

PREDICTION_COLUMNS = ("path", "label", "prediction", "score", "label_score", "correct")
"""First columns of predictions.csv; one column of scores per class follows."""


@dataclass(frozen=True)
class EvalConfig:
    """How a trained model is tested."""

    num_temporal_views: int = 1
    """Clips per video, spread over time (3 in the published Kinetics protocol)."""
    num_spatial_views: int = 1
    """Crops per clip: 1 is the centre, 3 go along the longer side."""
    batch_size: int = 8
    """Videos per step; each brings all its views."""
    num_workers: int | None = None
    """Decoding processes; None takes the number of cores, 0 decodes in the main process."""
    precision: Precision = "fp32"
    """Of the matrix products: fp32 or bf16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    on_broken: OnBroken = "skip"
    """What is done about a clip that cannot be read: skip it, salvage what lies before the damage
    if that is at least half of it, or fail at the first one."""
    max_broken: float = 0.01
    """Fraction of clips that may be skipped before the evaluation stops."""
    decode_timeout_seconds: float | None = None
    """A clip that takes longer to read is broken. Clips are then read in processes that can be
    killed; None waits for ever."""

    def __post_init__(self) -> None:
        if self.num_temporal_views < 1:
            raise ValueError(f"num_temporal_views ({self.num_temporal_views}) must be at least 1")
        if self.num_spatial_views not in (1, 3):
            raise ValueError(f"num_spatial_views ({self.num_spatial_views}) must be 1 or 3")
        if self.batch_size < 1:
            raise ValueError(f"batch_size ({self.batch_size}) must be at least 1")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 0")
        if not 0 <= self.max_broken <= 1:
            raise ValueError(f"max_broken ({self.max_broken}) must be a fraction, 0 to 1")
        if self.decode_timeout_seconds is not None and not self.decode_timeout_seconds > 0:
            raise ValueError(
                f"decode_timeout_seconds ({self.decode_timeout_seconds}) must be above 0, or None"
            )


@dataclass(frozen=True)
class Scores:
    """What a model said about each clip that could be read, in the table's order."""

    clips: Tensor
    """Number of each scored clip in the table, int64 (n,)."""
    probabilities: Tensor
    """float32 (n, K), as the task makes them."""
    labels: Tensor
    """Laid out as in `ClipTable`."""
    space: LabelSpace
    """What a label may be."""
    broken: tuple[BrokenClip, ...]
    """Clips that were skipped, or salvaged and scored."""
    seconds: float
    """Wall time it took."""

    @property
    def task(self) -> Task:
        """What the numbers mean."""
        return make_task(self.space)

    @property
    def predictions(self) -> Tensor:
        """Most probable label of each clip, laid out as the labels."""
        return self.task.predict(self.probabilities)

    @property
    def headline(self) -> float | None:
        """The number by which epochs and runs are compared (top-1, mAP, action top-1)."""
        return self.task.headline(self.probabilities, self.labels)


def score_clips(
    model: VideoClassifier,
    table: ClipTable,
    preprocessing: Preprocessing,
    sampling: SamplingConfig,
    config: EvalConfig,
    *,
    text: str = "scoring",
) -> Scores:
    """Score every clip of `table` once.

    Raises:
        TooManyBrokenError: more unreadable clips than `config.max_broken`.
        WorkerKilledError: the system killed a process that reads clips.
        ValueError: none of the clips could be read.
    """
    start = time.perf_counter()
    device = pick_device(config.device)
    workers = default_num_workers() if config.num_workers is None else config.num_workers
    reader = TestReader(
        sampling, preprocessing, config.num_temporal_views, config.num_spatial_views
    )
    dataset = ClipDataset(
        table,
        reader,
        on_broken=config.on_broken,
        decode_timeout_seconds=config.decode_timeout_seconds,
    )
    loader = make_loader(
        dataset,
        EpochSampler(len(table), shuffle=False),
        batch_size=config.batch_size,
        num_workers=min(workers, len(table)),
        pin_memory=device.type == "cuda",
    )
    limit = BrokenLimit(len(table), config.max_broken, config.on_broken)
    clips, probabilities, labels = [], [], []
    broken: list[BrokenClip] = []
    was_training = model.training
    model.to(device).eval()
    try:
        with (
            progress_bar(text, len(table)) as bar,
            naming_killed_workers(dataset.whereabouts, table.paths),
        ):
            for batch in loader:
                if batch.broken:
                    broken += batch.broken
                    limit.check(broken)
                if len(batch.clips):
                    video = batch.video.to(device, non_blocking=True)
                    clips.append(batch.clips)
                    labels.append(batch.labels)
                    probabilities.append(
                        view_probabilities(model, preprocessing, video, config.precision).cpu()
                    )
                bar.advance(len(batch.clips) + len(skipped(batch.broken)))
    finally:
        model.train(was_training)
    if not clips:
        raise ValueError(
            f"none of the {len(table)} clips could be read; the first: {broken[0].path}: "
            f"{broken[0].reason}"
        )
    seconds = time.perf_counter() - start
    return Scores(
        clips=torch.cat(clips),
        probabilities=torch.cat(probabilities),
        labels=torch.cat(labels),
        space=table.space,
        broken=tuple(broken),
        seconds=seconds,
    )


@torch.no_grad()
def view_probabilities(
    model: VideoClassifier, preprocessing: Preprocessing, video: Tensor, precision: Precision
) -> Tensor:
    """uint8 views (B, V, T, C, H, W) -> class probabilities (B, K), the mean over views."""
    task = make_task(model.adapter_set.info.space)
    B, V = video.shape[:2]
    with autocast(video.device, precision):
        logits = model(preprocessing.normalize(video.flatten(0, 1)))
    return task.probabilities(logits).reshape(B, V, -1).mean(1)


def compute_metrics(scores: Scores, table: ClipTable) -> dict[str, Any]:
    """The task's metrics, and what they were computed on."""
    missing = skipped(scores.broken)
    return {
        **scores.task.metrics(scores.probabilities, scores.labels),
        "num_clips": len(scores.labels),
        "num_broken": len(missing),
        "broken": [{"path": b.path, "reason": b.reason} for b in missing],
        "num_salvaged": len(scores.broken) - len(missing),
        "broken_reasons": count_by_reason(scores.broken),
        "clip_list_sha256": table.list_hash(),
        "class_names": list(scores.space.class_names),
        "label_space": scores.space.to_dict(),
        "seconds": round(scores.seconds, 2),
    }


def write_results(
    run: RunFolder, scores: Scores, table: ClipTable, context: dict[str, Any]
) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and broken.csv, and return the metrics.

    `context` says what the scores were computed on (split, views, resolution).
    """
    metrics = compute_metrics(scores, table) | context | {"versions": library_versions()}
    write_text(run.predictions, predictions_csv(scores, table))
    write_broken(run.broken, context["split"], scores.broken)
    write_json(run.metrics, metrics)
    return metrics


def predictions_csv(scores: Scores, table: ClipTable) -> str:
    """One line per scored clip: path, label, most probable label, the probabilities of both,
    whether they are the same, and the score of each class."""
    task, name = scores.task, scores.space.label_name
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*PREDICTION_COLUMNS, *(f"score:{name}" for name in scores.space.class_names)])
    predictions = scores.predictions
    rows = zip(
        scores.clips.tolist(),
        scores.labels.numpy(),
        predictions.numpy(),
        task.label_probability(scores.probabilities, predictions).tolist(),
        task.label_probability(scores.probabilities, scores.labels).tolist(),
        task.correct(scores.probabilities, scores.labels).tolist(),
        scores.probabilities.tolist(),
        strict=True,
    )
    for clip, label, prediction, score, label_score, correct, row in rows:
        writer.writerow(
            [
                table.paths[clip],
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
