"""Parts of the clips that are worth a score of their own: by duration, by where they come from."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from stadapter.tasks import Task, wilson_interval

MIN_CLIPS = 8
"""Clips of known duration below which there are no quarters."""
MAX_SOURCES = 100
"""Folders up to which they count as sources."""


def by_duration(seconds: Tensor) -> list[tuple[float, float, Tensor]]:
    """The quarters of the clips, from the shortest on.

    Args:
        seconds: duration of each clip, float64 (n,); nan where it is not known.

    Returns:
        (shortest, longest, numbers of the clips, int64) of each quarter; clips of one duration stay
        together, so there may be fewer than four, and none where durations hardly differ.
    """
    known = torch.nonzero(~seconds.isnan())[:, 0]
    if len(known) < MIN_CLIPS:
        return []
    cuts = seconds[known].quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    quarter = torch.bucketize(seconds[known], cuts)
    parts = [known[quarter == q] for q in range(4)]
    found = [
        (float(seconds[part].min()), float(seconds[part].max()), part)
        for part in parts
        if len(part)
    ]
    return found if len(found) > 1 else []


def by_source(paths: Sequence[str], labels: Sequence[str]) -> dict[str, Tensor]:
    """Clips by the first folder that tells them apart, where that is not their class.

    For `rgb/P01/a.mp4`, `rgb/P02/b.mp4` these are P01 and P02. Nothing is returned if all clips lie
    in one folder, if each folder holds one class only, or if there are over 100 folders. Shards are
    no sources.

    Args:
        paths: file of each clip.
        labels: name of each clip's label.

    Returns:
        Name of the folder -> numbers of its clips, int64.
    """
    folders = [PurePath(path).parent.parts for path in paths]
    depth = 0
    while all(len(parts) > depth for parts in folders) and len({f[depth] for f in folders}) == 1:
        depth += 1
    names = [parts[depth] if len(parts) > depth else "" for parts in folders]
    sources = sorted(set(names))
    told_by_class = len(set(zip(names, labels, strict=True))) == len(sources)
    shards = any(name.endswith(".tar") for name in names)
    if not 1 < len(sources) <= MAX_SOURCES or told_by_class or shards:
        return {}
    place = {name: k for k, name in enumerate(sources)}
    numbers = torch.tensor([place[name] for name in names])
    return {name: torch.nonzero(numbers == k)[:, 0] for name, k in place.items()}


def group_scores(
    task: Task, probabilities: Tensor, labels: Tensor, clips: Tensor
) -> dict[str, Any]:
    """`num_clips` and the headline number of some clips, with its interval where it is a share of
    the clips (Wilson's)."""
    name = next(iter(task.numbers))
    value = task.headline(probabilities[clips], labels[clips])
    found: dict[str, Any] = {"num_clips": len(clips), name: value}
    if task.exclusive and value is not None:
        found[f"{name}_interval95"] = wilson_interval(value, len(clips))
    return found
