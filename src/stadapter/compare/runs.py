"""What runs said about clips, read from their folders and brought into the same order."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stadapter.data import LabelSpace
from stadapter.run import RunFolder
from stadapter.tasks import Task, make_task

Clip = tuple[str, ...]
"""What tells a clip from others: the end of its path, and start and end of a window."""

TEST_SETTINGS = (
    *("num_temporal_views", "num_spatial_views", "num_frames", "frame_stride"),
    *("resolution", "precision"),
)
"""Entries of metrics.json that say how a run was tested."""


@dataclass(frozen=True)
class ScoredRun:
    """A run's probabilities for n clips."""

    name: str
    space: LabelSpace
    metrics: Mapping[str, Any]
    """Content of metrics.json."""
    files: tuple[Clip, ...]
    """Path, start and end (as text, empty for none) of each clip."""
    labels: Tensor
    """Laid out as in `ClipTable`."""
    probabilities: Tensor
    """float32 (n, K)"""

    @property
    def task(self) -> Task:
        """What the numbers mean."""
        return make_task(self.space)

    def take(self, clips: Sequence[int]) -> "ScoredRun":
        """The run as if only these clips had been scored, in this order."""
        rows = torch.tensor(clips, dtype=torch.int64)
        return replace(
            self,
            files=tuple(self.files[i] for i in clips),
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
        )


def load_runs(paths: Sequence[str | Path]) -> list[ScoredRun]:
    """Read metrics.json and predictions.csv of each run folder.

    Raises:
        FileNotFoundError: a folder without one of them.
        ValueError: one of them cannot be used, or belongs to other classes than the first run's.
    """
    folders = [Path(path) for path in paths]
    runs = [
        _load(folder, name) for folder, name in zip(folders, _short_names(folders), strict=True)
    ]
    for run in runs[1:]:
        if run.space != runs[0].space:
            raise ValueError(
                f"{runs[0].name} and {run.name} know other classes ({runs[0].space.summary()}, "
                f"{run.space.summary()}), so their scores cannot be compared"
            )
    return runs


def align(runs: Sequence[ScoredRun], *, common: bool = False) -> list[ScoredRun]:
    """The runs with the same clips in the same order, that of the first run.

    Files are the same if their names are, with as many folders above as it takes to tell the files
    of each run apart: a collection may lie elsewhere on another machine.

    Args:
        runs: at least one.
        common: take the clips that all runs scored, instead of refusing runs whose lists differ.

    Raises:
        ValueError: the runs were not scored on the same clips, or not with the same labels.
    """
    clips = _clips(runs)
    places = [{clip: i for i, clip in enumerate(own)} for own in clips]
    shared = [clip for clip in clips[0] if all(clip in place for place in places)]
    if not shared:
        raise ValueError(f"{_listed(runs)} have no clip in common")
    if not common:
        _refuse_other_lists(runs, clips, shared)
    aligned = [
        run.take([place[clip] for clip in shared]) for run, place in zip(runs, places, strict=True)
    ]
    for run in aligned[1:]:
        same = (run.labels == aligned[0].labels).reshape(len(shared), -1).all(1)
        if not same.all():
            first = int((~same).nonzero()[0])
            path = aligned[0].files[first][0]
            raise ValueError(
                f"{aligned[0].name} and {run.name} were scored with other labels for "
                f"{int((~same).sum())} clips, the first {path}; score both on the same list"
            )
    return aligned


def scored_differently(runs: Sequence[ScoredRun]) -> list[str]:
    """What differs in how the runs were tested, a sentence per setting: part of any difference
    between their scores may come of it."""
    sentences = []
    for name in TEST_SETTINGS:
        values = [run.metrics.get(name) for run in runs]
        if any(value != values[0] for value in values):
            said = ", ".join(f"{run.name} {value}" for run, value in zip(runs, values, strict=True))
            sentences.append(f"scored with another {name}: {said}")
    return sentences


def clip_names(run: ScoredRun) -> list[str]:
    """Names to show of a run's clips, with as little of their paths as tells them apart."""
    names = []
    for path, start, end, *_ in _clips([run])[0]:
        window = f" ({start or 'start'} to {end or 'end'} s)" if start or end else ""
        names.append(path + window)
    return names


def _refuse_other_lists(
    runs: Sequence[ScoredRun], clips: Sequence[Sequence[Clip]], shared: Sequence[Clip]
) -> None:
    for run, own in zip(runs[1:], clips[1:], strict=True):
        lacking, extra = (sorted(set(a) - set(b)) for a, b in ((clips[0], own), (own, clips[0])))
        if lacking or extra:
            only = [
                f"{len(some)} only by {name} (such as {some[0][0]})"
                for name, some in ((runs[0].name, lacking), (run.name, extra))
                if some
            ]
            raise ValueError(
                f"{runs[0].name} and {run.name} were not scored on the same clips: "
                f"{' and '.join(only)}; compare the {len(shared)} clips that all of "
                "the runs scored with --common"
            )


def _clips(runs: Sequence[ScoredRun]) -> list[list[Clip]]:
    """What tells the clips of each run apart, with as little of their paths as possible."""
    parts = [[(Path(path).parts, times) for path, *times in run.files] for run in runs]
    deepest = max(len(names) for own in parts for names, _ in own)
    for depth in range(1, deepest + 1):
        found: list[list[Clip]] = [
            [("/".join(names[-depth:]), *times) for names, times in own] for own in parts
        ]
        if all(len(set(own)) == len(own) for own in found):
            return found
    return [_numbered(own) for own in found]  # a list that names a clip twice


def _numbered(clips: Sequence[Clip]) -> list[Clip]:
    seen: Counter[Clip] = Counter()
    found = []
    for clip in clips:
        seen[clip] += 1
        found.append((*clip, str(seen[clip])))
    return found


def _load(folder: Path, name: str) -> ScoredRun:
    run = RunFolder(folder)
    for path in (run.metrics, run.predictions):
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {path.name}; score the run first: stadapter eval {folder}"
            )
    try:
        metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
        if "label_space" in metrics:
            space = LabelSpace.from_dict(metrics["label_space"])
        else:  # of an older version, which knew one class per clip
            space = LabelSpace.single_label(metrics["class_names"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{run.metrics} cannot be used: {error!r}") from error
    try:
        files, labels, probabilities = _read_predictions(run.predictions, space)
    except (ValueError, KeyError, IndexError, csv.Error) as error:
        raise ValueError(f"{run.predictions} cannot be used: {error!r}") from error
    return ScoredRun(name, space, metrics, files, labels, probabilities)


def _read_predictions(path: Path, space: LabelSpace) -> tuple[tuple[Clip, ...], Tensor, Tensor]:
    K = space.num_outputs
    index = [{name: k for k, name in enumerate(names)} for names in space.vocabularies]
    files: list[Clip] = []
    labels, probabilities = [], []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        columns = {name: i for i, name in enumerate(next(rows, []))}
        for row in rows:
            times = (row[columns[name]] if name in columns else "" for name in ("start", "end"))
            files.append((row[columns["path"]], *times))
            names = space.split_label_name(row[columns["label"]])
            if space.task == "multi_label":
                label = np.zeros(K, dtype=bool)
                label[[index[0][name] for name in names]] = True
            else:
                label = np.array([own[n] for own, n in zip(index, names, strict=True)]).squeeze()
            labels.append(label)
            probabilities.append(np.array(row[-K:], dtype=np.float32))
    if not files:
        raise ValueError("it lists no clip")
    return (
        tuple(files),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(probabilities)),
    )


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with those above where they are needed to tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a run cannot be compared with itself; give different run folders")


def _listed(runs: Sequence[ScoredRun]) -> str:
    return ", ".join(run.name for run in runs)
