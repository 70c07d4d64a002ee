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
from stadapter.data import LabelSpace
from stadapter.data.labels import VOCABULARIES
from stadapter.results import read_predictions
from stadapter.run import RunFolder
from stadapter.tasks import Task, make_task

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
    start: float | None = None
    """Where the clip starts in its file, seconds."""
    end: float | None = None
    """Where it ends."""

    @property
    def window(self) -> dict[str, float]:
        """`start` and `end`, as far as the clip has them."""
        times = {"start": self.start, "end": self.end}
        return {name: time for name, time in times.items() if time is not None}

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label, in all its parts."""
        return self.label == self.prediction


@dataclass
class History:
    """Curves of a run, over epochs."""

    loss: list[Point] = field(default_factory=list)
    """Mean training loss of each epoch, at the epoch's end."""
    step_loss: list[Point] = field(default_factory=list)
    """Training loss of each step."""
    val: list[Point] = field(default_factory=list)
    """The task's headline number on the validation clips."""


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
    confusions: dict[str, list[list[int]]] = field(default_factory=dict)
    """Vocabulary -> (K, K), true classes down; without those that metrics.json lacks."""
    clips: list[ScoredClip] = field(default_factory=list)
    history: History = field(default_factory=History)
    recipe: str = ""
    notes: list[str] = field(default_factory=list)
    """What could not be read, for the reader of the report."""

    @property
    def space(self) -> LabelSpace:
        """The classes and what a label is, from the metrics or else the adapter."""
        content, names = (self.metrics.get(key) for key in ("label_space", "class_names"))
        if isinstance(content, dict):
            try:
                return LabelSpace.from_dict(content)
            except (ValueError, TypeError):
                pass
        if isinstance(names, list):
            return LabelSpace.single_label(list(map(str, names)))
        return self.config.info.space if self.config else LabelSpace.single_label(())

    @property
    def task(self) -> Task:
        """What its numbers mean."""
        return make_task(self.space)

    @property
    def headline(self) -> tuple[str, str]:
        """Entry of metrics.json with the number that runs are compared by, and its name."""
        return next(iter(self.task.numbers.items()))

    @property
    def score(self) -> float | None:
        """That number, 0 to 1."""
        return number(self.metrics.get(self.headline[0]))

    def class_scores(self) -> dict[str, list[tuple[int, float | None]]]:
        """Vocabulary -> clips and score of each class: recall, or average precision where classes
        do not exclude each other; None for a class without clips."""
        found = {
            kind: [
                (sum(row), row[k] / sum(row) if sum(row) else None) for k, row in enumerate(rows)
            ]
            for kind, rows in self.confusions.items()
        }
        counts, scores = (self.metrics.get(key) for key in ("clips_per_class", "average_precision"))
        K = self.space.num_outputs
        if (
            isinstance(counts, list)
            and isinstance(scores, list)
            and len(counts) == len(scores) == K
        ):
            pairs = zip(counts, scores, strict=True)
            found["label"] = [(int(number(n) or 0), number(score)) for n, score in pairs]
        return found

    def precisions(self, kind: str) -> list[float | None]:
        """Precision of each class of a vocabulary, None where it was never predicted; empty if the
        vocabulary has no confusion matrix."""
        columns = zip(*self.confusions.get(kind, []), strict=True)
        return [
            column[k] / sum(column) if sum(column) else None for k, column in enumerate(columns)
        ]


def best_run(runs: Sequence[RunRecord]) -> RunRecord:
    """The run with the highest score; the first of equals."""
    return max(runs, key=lambda run: -1.0 if run.score is None else run.score)


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
    sizes = zip(VOCABULARIES[run.space.task], map(len, run.space.vocabularies), strict=True)
    for kind, K in sizes:
        key = run.task.matrices.get(kind)
        if key is not None and _is_square(metrics.get(key), K):
            run.confusions[kind] = metrics[key]
        elif key is not None:
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
        label_score=float(row["label_score"]),
        start=float(row["start"]) if row.get("start") else None,
        end=float(row["end"]) if row.get("end") else None,
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
    run.history = _history(lines, f"val_{run.headline[0]}")
    if not run.history.loss and not run.history.val:
        run.notes.append(f"{path.name} holds no training loss and no validation.")


def _log_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and number(line.get("epoch")) is not None else None


def _history(lines: list[dict[str, Any]], val_key: str) -> History:
    """Step lines count epochs from 0, and epoch lines say how many are done."""
    steps: dict[int, list[float]] = {}
    loss: dict[int, float] = {}
    val: dict[int, float] = {}
    for line in lines:
        epoch = int(line["epoch"])
        for key, into in (("train_loss", loss), (val_key, val)):
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
        val=sorted((float(epoch), value) for epoch, value in val.items()),
    )


def _what(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.name} does not exist."
    if isinstance(error, KeyError):
        return f"{path.name} has no column {error}."
    return f"{path.name} cannot be read ({error})."
