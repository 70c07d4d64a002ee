"""What reading and augmenting clips costs, measured on some of them in this process."""

import os
import time
from dataclasses import dataclass
from random import Random

from stadapter.data import BrokenClip, ClipDataset, ClipTable, Preprocessing, TrainReader
from stadapter.device import default_num_workers
from stadapter.recipe import Recipe

CLIPS = 8
"""Clips that are read."""


@dataclass(frozen=True)
class Reading:
    """How fast clips come from their files."""

    clips_per_second: float
    """Of one process, which keeps one core busy."""
    num_clips: int
    """Clips that were read."""
    num_broken: int
    """Clips that were tried and could not be read."""
    num_processes: int
    """Processes that can read at once: the recipe's workers, as far as there are cores."""

    @property
    def total(self) -> float:
        """Clips per second of all processes together."""
        return self.clips_per_second * self.num_processes


def measure_reading(table: ClipTable, recipe: Recipe, preprocessing: Preprocessing) -> Reading:
    """Read some training clips, drawn by the recipe's seed, as training does.

    Raises:
        ValueError: none of them could be read.
    """
    reader = TrainReader(recipe.sampling, preprocessing, recipe.augment, recipe.train.seed)
    dataset = ClipDataset(table, reader, on_broken=recipe.train.on_broken)
    clips = Random(recipe.train.seed).sample(range(len(table)), min(CLIPS, len(table)))
    dataset[0, clips[0]]  # imports and the like
    begin = time.perf_counter()
    samples = [dataset[0, clip] for clip in clips]
    seconds = time.perf_counter() - begin
    broken = [sample for sample in samples if isinstance(sample, BrokenClip)]
    if len(broken) == len(samples):
        raise ValueError(
            f"none of {len(samples)} clips could be read; the first: {broken[0].path}: "
            f"{broken[0].reason}"
        )
    workers = recipe.train.num_workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = default_num_workers() if workers is None else max(1, workers)
    return Reading(
        clips_per_second=len(samples) / seconds,
        num_clips=len(samples) - len(broken),
        num_broken=len(broken),
        num_processes=min(wanted, cores or 1),
    )
