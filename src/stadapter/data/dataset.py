"""Clips as batches. A clip that cannot be read is reported in the batch, never replaced silently.

What a clip looks like depends on (seed, epoch, clip) alone, so the number of workers, the batch
size and an interruption change nothing. Epoch and clip travel together as the sampler's key,
because workers that outlive an epoch keep their own copy of the dataset.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from stadapter.data.annotations import ClipTable
from stadapter.data.broken import BrokenClip, OnBroken
from stadapter.data.duration import clip_seconds
from stadapter.data.sampling import SamplingConfig, sample_test, sample_train
from stadapter.data.transforms import AugmentConfig, Preprocessing
from stadapter.data.video import VideoError, read_clip
from stadapter.data.watchdog import DecodeTimeoutError, KillableReader, Whereabouts

Key = tuple[int, int]
"""(epoch, clip); see `EpochSampler` for clips that come several times in an epoch."""


@dataclass(frozen=True)
class Batch:
    """Clips that could be read, and those that could not."""

    clips: Tensor
    """Number of each clip in the table, int64 (B,)."""
    video: Tensor
    """uint8 (B, V, T, C, H, W); B may be 0."""
    labels: Tensor
    """Label of each clip, as in `ClipTable`: int64 (B,), bool (B, K) or int64 (B, 2)."""
    broken: tuple[BrokenClip, ...]
    """The clips of this batch that were skipped, which are missing above, or salvaged."""
    seconds: Tensor
    """Duration of each clip, float64 (B,); nan where it is not known or was not asked for."""

    def pin_memory(self) -> "Batch":
        """For the data loader: host memory from which a GPU copies without waiting."""
        return Batch(
            self.clips.pin_memory(),
            self.video.pin_memory(),
            self.labels.pin_memory(),
            self.broken,
            self.seconds,
        )


@dataclass(frozen=True)
class ClipSample:
    """One clip that could be read, at least in part."""

    clip: int
    video: Tensor  # uint8 (V, T, C, H, W)
    label: NDArray[Any]  # one row of ClipTable.labels
    salvaged: BrokenClip | None = None
    seconds: float = math.nan


class ClipDataset(Dataset[ClipSample | BrokenClip]):
    """Clips of a table, read and turned into views by `read`."""

    def __init__(
        self,
        table: ClipTable,
        read: Callable[..., Tensor],
        *,
        on_broken: OnBroken = "skip",
        decode_timeout_seconds: float | None = None,
        durations: bool = False,
    ) -> None:
        """Nothing is read yet.

        Args:
            table: the clips.
            read: maps (file, key) to uint8 (V, T, C, H, W) and raises `VideoError`; takes `start`,
                `end` and `salvage` as `read_clip` does.
            on_broken: "salvage" tries a clip that cannot be read once more, with `salvage=True`.
            decode_timeout_seconds: a clip that takes longer is broken; it is read in a process of
                its own then.
            durations: look up how long each clip is.
        """
        self.table = table
        self.durations = durations
        self.on_broken = on_broken
        self.read = (
            read if decode_timeout_seconds is None else KillableReader(read, decode_timeout_seconds)
        )
        self.whereabouts = Whereabouts(0)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key) -> ClipSample | BrokenClip:
        _, clip = key
        worker = get_worker_info()
        if worker is not None:
            self.whereabouts.note(worker.id, clip)
        path, label = self.table.paths[clip], self.table.labels[clip]
        window = _window(self.table, clip)
        try:
            video = self.read(path, key, **window)
            return ClipSample(clip, video, label, seconds=self._seconds(path, window))
        except VideoError as error:
            broken = BrokenClip(clip, path, error.reason)
            if self.on_broken != "salvage" or isinstance(error, DecodeTimeoutError):
                return broken
        try:
            video = self.read(path, key, **window, salvage=True)
        except VideoError:
            return broken
        salvaged = BrokenClip(clip, path, broken.reason, "salvaged")
        return ClipSample(clip, video, label, salvaged, self._seconds(path, window))

    def _seconds(self, path: str, window: dict[str, float]) -> float:
        return clip_seconds(path, **window) if self.durations else math.nan


def _window(table: ClipTable, clip: int) -> dict[str, float]:
    """`start` and `end` in seconds of a clip that is a part of its file."""
    times = {"start": float(table.starts[clip]), "end": float(table.ends[clip])}
    return {name: time for name, time in times.items() if not math.isnan(time)}


@dataclass(frozen=True)
class TrainReader:
    """Read one random, augmented clip: uint8 (1, T, C, H, W)."""

    sampling: SamplingConfig
    preprocessing: Preprocessing
    augment: AugmentConfig
    seed: int

    def __call__(self, path: str, key: Key, **part: Any) -> Tensor:
        """Everything random comes from (seed, epoch, clip); `part` is for `read_clip`."""
        epoch, clip = key
        state = f"{self.seed}/{epoch}/{clip}"
        # `choose` may be asked twice (see read_clip), so it starts its generator anew each time.
        frames = read_clip(
            path, lambda total: sample_train(total, self.sampling, Random(state)), **part
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Random(f"augment {state}").getrandbits(63))
            return self.augment.apply(frames, self.preprocessing)[None]


@dataclass(frozen=True)
class TestReader:
    """Read all test views of a clip: uint8 (V, T, C, H, W), temporal views outermost."""

    sampling: SamplingConfig
    preprocessing: Preprocessing
    num_temporal_views: int = 1
    num_spatial_views: int = 1

    __test__ = False  # no test class, whatever pytest thinks of its name

    def __call__(self, path: str, key: Key = (0, 0), **part: Any) -> Tensor:
        """The file is decoded once for all views; `part` is for `read_clip`."""
        frames = read_clip(path, self._choose, **part)
        clips = frames.reshape(-1, self.sampling.num_frames, *frames.shape[1:])
        views = [self.preprocessing.views(clip, self.num_spatial_views) for clip in clips]
        return torch.cat(views)

    def _choose(self, total: int) -> list[int]:
        clips = sample_test(total, self.sampling, self.num_temporal_views)
        return [index for clip in clips for index in clip]


class EpochSampler(Sampler[Key]):
    """Keys of one epoch: a seeded shuffle or the table's order, and only this rank's share.

    With `weights` an epoch has as many keys as clips, but draws clip i in proportion to
    `weights[i]`: its expected number of times, rounded down or up. The first number of a key then
    counts on where a clip comes again, so that it looks different each time.

    `skip` leaves out the first keys of the epoch, counted over all ranks, to go on where a run was
    interrupted.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.num_clips = num_clips
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.draws = None if weights is None else weights / weights.sum() * num_clips
        self.epoch = 0
        self.skip = 0

    def __len__(self) -> int:
        return len(range(self.skip + self.rank, self.num_clips, self.num_ranks))

    def __iter__(self) -> Iterator[Key]:
        order = list(range(self.num_clips))
        random = Random(f"{self.seed}/{self.epoch}")
        if self.shuffle:
            random.shuffle(order)
        keys: Iterable[Key] = ((self.epoch, clip) for clip in order)
        if self.draws is not None:
            keys = self._balanced(order, self.draws, random)
        yield from islice(keys, self.skip + self.rank, None, self.num_ranks)

    def _balanced(self, order: list[int], draws: NDArray[np.float64], random: Random) -> list[Key]:
        """Systematic sampling: clips side by side on a line, each as long as its expected number of
        draws, and a comb of distance 1 laid over it."""
        clips = np.array(order)
        clips = clips[np.argsort(draws[clips], kind="stable")]  # each class gets its share exactly
        ends = np.cumsum(draws[clips])
        comb = np.arange(len(clips)) + random.random()
        places = np.searchsorted(ends, comb, side="right").clip(max=len(clips) - 1)
        repeats = np.arange(len(places)) - np.searchsorted(places, places)
        first = self.epoch * (math.floor(draws.max()) + 1)  # no clip comes more often in an epoch
        keys = list(zip((first + repeats).tolist(), clips[places].tolist(), strict=True))
        random.shuffle(keys)
        return keys


def collate(samples: Sequence[ClipSample | BrokenClip]) -> Batch:
    """Stack the clips that could be read; keep the others as a list."""
    good = [sample for sample in samples if isinstance(sample, ClipSample)]
    reports = [s if isinstance(s, BrokenClip) else s.salvaged for s in samples]
    labels = np.array([sample.label for sample in good]) if good else np.empty(0, dtype=np.int64)
    return Batch(
        clips=torch.tensor([sample.clip for sample in good], dtype=torch.int64),
        video=torch.stack([s.video for s in good]) if good else torch.empty(0, dtype=torch.uint8),
        labels=torch.from_numpy(labels),
        broken=tuple(report for report in reports if report is not None),
        seconds=torch.tensor([sample.seconds for sample in good], dtype=torch.float64),
    )


def make_loader(
    dataset: ClipDataset,
    sampler: EpochSampler,
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool = False,
) -> DataLoader[ClipSample | BrokenClip]:
    """A data loader whose batches are `Batch`; its workers note in the dataset where they are."""
    dataset.whereabouts = Whereabouts(num_workers)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        # Its own: iterating draws a number, and the global generator is dropout's, which must not
        # depend on how often, or with how many workers, a loader was started.
        generator=torch.Generator(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_leave_process_group,
    )


def _leave_process_group(_: int) -> None:
    """A Ctrl-C on the terminal is for the main process, which ends its workers in good order."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
