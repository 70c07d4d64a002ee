"""What a run folder holds, as far as it can be read: a missing or damaged part becomes a note.

A report must come out of every run, also of one that was killed or that an older version wrote.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stadapter.checkpoint import TENSORS, AdapterConfig, load_adapter_config
from stadapter.evaluate import read_predictions
from stadapter.run import RunFolder

Point = tuple[float, float]


@dataclass(frozen=True)
class ScoredClip:
    """A line of predictions.csv."""

    path: str
    label: str
    prediction: str
    score: float
    """Probability of the prediction."""
    label_score: float
    """Probability of the true label."""

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.label == self.prediction


@dataclass
class History:
    """Curves of a run, over epochs."""

    loss: list[Point] = field(default_factory=list)
    """Mean training loss of each epoch, at the epoch's end."""
    step_loss: list[Point] = field(default_factory=list)
    """Training loss of each step."""
    val_top1: list[Point] = field(default_factory=list)
    """Top-1 on the validation clips."""


@dataclass
class RunRecord:
    """Everything a report says about one run."""

    name: str
    folder: RunFolder
    config: AdapterConfig | None = None
    num_trained: int | None = None
    """Parameters in the adapter file."""
    file_bytes: int | None = None
    """Size of the adapter file."""
    metrics: dict[str, Any] = field(default_factory=dict)
    confusion: list[list[int]] | None = None
    """(K, K), true classes down; None if metrics.json has none that fits."""
    clips: list[ScoredClip] = field(default_factory=list)
    history: History = field(default_factory=History)
    recipe: str = ""
    notes: list[str] = field(default_factory=list)
    """What could not be read, for the reader of the report."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, from the metrics or else the adapter."""
        names = self.metrics.get("class_names")
        if isinstance(names, list):
            return tuple(map(str, names))
        return self.config.info.class_names if self.config else ()

    @property
    def top1(self) -> float | None:
        """Fraction of clips classified correctly."""
        return number(self.metrics.get("top1"))


def best_run(runs: Sequence[RunRecord]) -> RunRecord:
    """The run with the highest top-1; the first of equals."""
    return max(runs, key=lambda run: -1.0 if run.top1 is None else run.top1)


def read_run(name: str, folder: RunFolder) -> RunRecord:
    """Read what there is."""
    run = RunRecord(name, folder)
    try:
        run.config = load_adapter_config(folder.path)
    except (OSError, ValueError) as error:
        run.notes.append(f"The adapter is missing from this report: {error}")
    _read_tensor_sizes(run)
    _read_metrics(run)
    if run.metrics:
        try:
            run.clips = [_scored_clip(row) for row in read_predictions(folder.predictions)]
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            run.notes.append(f"No clips are shown: {_what(folder.predictions, error)}")
    _read_log(run)
    if folder.recipe.is_file():
        run.recipe = folder.recipe.read_text(encoding="utf-8", errors="replace")
    return run


def number(value: Any) -> float | None:
    """`value` as a finite float, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _read_tensor_sizes(run: RunRecord) -> None:
    path = run.folder.path / TENSORS
    if run.config is None or not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        run.notes.append(f"{path.name} cannot be read: {error}")
        return
    run.num_trained = sum(math.prod(shape) for shape in shapes)
    run.file_bytes = path.stat().st_size


def _read_metrics(run: RunRecord) -> None:
    try:
        metrics = json.loads(run.folder.metrics.read_text(encoding="utf-8"))
        if not isinstance(metrics, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        run.notes.append(f"No scores are shown: {_what(run.folder.metrics, error)}")
        return
    run.metrics = metrics
    counts, K = metrics.get("confusion_matrix"), len(run.class_names)
    if _is_square(counts, K):
        run.confusion = counts
    else:
        run.notes.append(f"{run.folder.metrics.name} has no confusion matrix of {K} classes.")


def _is_square(counts: Any, num_classes: int) -> bool:
    K = num_classes

    def is_row(row: Any) -> bool:
        return isinstance(row, list) and len(row) == K and all(isinstance(x, int) for x in row)

    return K > 0 and isinstance(counts, list) and len(counts) == K and all(map(is_row, counts))


def _scored_clip(row: Mapping[str, str]) -> ScoredClip:
    return ScoredClip(
        path=row["path"],
        label=row["label"],
        prediction=row["prediction"],
        score=float(row["score"]),
        label_score=float(row[f"score:{row['label']}"]),
    )


def _read_log(run: RunRecord) -> None:
    path = run.folder.log
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        run.notes.append(f"No curves are shown: {_what(path, error)}")
        return
    lines = [line for line in map(_log_line, texts) if line]
    if len(lines) < len(texts):
        num_bad = len(texts) - len(lines)
        run.notes.append(
            f"{num_bad} of {len(texts)} lines of {path.name} cannot be read (the run was "
            "probably interrupted while writing); the curves leave them out."
        )
    run.history = _history(lines)
    if not run.history.loss and not run.history.val_top1:
        run.notes.append(f"{path.name} holds no training loss and no validation.")


def _log_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and number(line.get("epoch")) is not None else None


def _history(lines: list[dict[str, Any]]) -> History:
    """Step lines count epochs from 0, and epoch lines say how many are done."""
    steps: dict[int, list[float]] = {}
    loss: dict[int, float] = {}
    val_top1: dict[int, float] = {}
    for line in lines:
        epoch = int(line["epoch"])
        for key, into in (("train_loss", loss), ("val_top1", val_top1)):
            value = number(line.get(key))
            if value is not None:
                into[epoch] = value
        value = number(line.get("loss"))
        if value is not None:
            steps.setdefault(epoch, []).append(value)
    for epoch, values in steps.items():  # an epoch that was not finished
        loss.setdefault(epoch + 1, sum(values) / len(values))
    per_epoch = max(map(len, steps.values()), default=1)
    return History(
        loss=sorted((float(epoch), value) for epoch, value in loss.items()),
        step_loss=[
            (epoch + (i + 1) / per_epoch, value)
            for epoch, values in sorted(steps.items())
            for i, value in enumerate(values)
        ],
        val_top1=sorted((float(epoch), value) for epoch, value in val_top1.items()),
    )


def _what(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.name} does not exist."
    if isinstance(error, KeyError):
        return f"{path.name} has no column {error}."
    return f"{path.name} cannot be read ({error})."
