"""Multi-view testing: a clip's scores, before anything is made of them.

A clip's scores are the mean over its views of the probabilities that its task makes of the logits.
Every clip of the list is either scored once or named as broken.

Letters: n clips, V views, K classes.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stadapter.data import (
    Batch,
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
    collate,
    make_loader,
    naming_killed_workers,
    skipped,
)
from stadapter.device import Precision, autocast, default_num_workers, pick_device
from stadapter.model import VideoClassifier
from stadapter.progress import progress_bar
from stadapter.ranks import Ranks
from stadapter.tasks import Task, make_task


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
    """Of the matrix products: fp32, bf16 or fp16."""
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

    @property
    def num_views(self) -> int:
        """V, views per video."""
        return self.num_temporal_views * self.num_spatial_views

    @property
    def middle_view(self) -> int:
        """Number of the view that stands for all where only one is looked at: the centre crop of
        the middle clip, or of the one behind the middle if their number is even."""
        temporal, spatial = self.num_temporal_views // 2, self.num_spatial_views // 2
        return temporal * self.num_spatial_views + spatial

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
    single_view: Tensor | None = None
    """Probabilities of the middle view alone, float32 (n, K); None if there was one view."""
    durations: Tensor | None = None
    """Seconds of each clip, float64 (n,), nan where not known; None if nobody looked."""

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
    ranks: Ranks | None = None,
    in_step: bool = False,
    text: str = "scoring",
) -> Scores:
    """Score every clip of `table` once.

    Args:
        model: moved to the device.
        table: the clips.
        preprocessing: resolution and pixel statistics.
        sampling: which frames make a clip.
        config: views, batches, device.
        ranks: the processes that share the clips; each of them gets all scores.
        in_step: ranks run the model equally often, which one that is split between them needs.
        text: what the bar says.

    Raises:
        TooManyBrokenError: more unreadable clips than `config.max_broken`.
        WorkerKilledError: the system killed a process that reads clips.
        ValueError: none of the clips could be read.
    """
    start = time.perf_counter()
    ranks = ranks or Ranks(0, 1, pick_device(config.device))
    device = ranks.device
    workers = default_num_workers() if config.num_workers is None else config.num_workers
    reader = TestReader(
        sampling, preprocessing, config.num_temporal_views, config.num_spatial_views
    )
    dataset = ClipDataset(
        table,
        reader,
        on_broken=config.on_broken,
        decode_timeout_seconds=config.decode_timeout_seconds,
        durations=True,
    )
    sampler = EpochSampler(len(table), shuffle=False, rank=ranks.rank, num_ranks=ranks.num_ranks)
    loader = make_loader(
        dataset,
        sampler,
        batch_size=config.batch_size,
        num_workers=min(workers, len(sampler)),
        pin_memory=device.type == "cuda",
    )
    limit = BrokenLimit(len(table), config.max_broken, config.on_broken)
    part = _Part()
    was_training = model.training
    model.to(device).eval()
    try:
        with (
            progress_bar(text, len(sampler)) as bar,
            naming_killed_workers(dataset.whereabouts, table.paths),
        ):
            for batch in _in_step(loader, ranks) if in_step else loader:
                part.broken += batch.broken
                if ranks.num_ranks == 1:
                    limit.check(part.broken)
                if len(batch.clips):
                    video = batch.video.to(device, non_blocking=True)
                    part.clips.append(batch.clips)
                    part.labels.append(batch.labels)
                    part.seconds.append(batch.seconds)
                    views = view_probabilities(model, preprocessing, video, config.precision)
                    part.probabilities.append(views.mean(1).cpu())
                    part.middle.append(views[:, config.middle_view].cpu())
                elif in_step:
                    shape = (1, 1, sampling.num_frames, 3, *preprocessing.resolution)
                    blank = torch.zeros(shape, dtype=torch.uint8, device=device)
                    view_probabilities(model, preprocessing, blank, config.precision)
                bar.advance(len(batch.clips) + len(skipped(batch.broken)))
    finally:
        model.train(was_training)
    return _join(ranks.gather(part), table, config, limit, time.perf_counter() - start)


@dataclass
class _Part:
    """What one rank found, batch by batch."""

    clips: list[Tensor] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    middle: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    seconds: list[Tensor] = field(default_factory=list)
    broken: list[BrokenClip] = field(default_factory=list)


def _in_step(loader: Iterable[Batch], ranks: Ranks) -> Iterator[Batch]:
    """The batches, and empty ones until every rank has had its last."""
    batches = iter(loader)
    while True:
        batch = next(batches, None)
        if not ranks.any(batch is not None):
            return
        yield collate([]) if batch is None else batch


def _join(
    parts: list[_Part], table: ClipTable, config: EvalConfig, limit: BrokenLimit, seconds: float
) -> Scores:
    """The parts of all ranks, in the table's order.

    Raises:
        TooManyBrokenError: as `limit` says.
        ValueError: none of the clips could be read.
    """
    broken = sorted((b for part in parts for b in part.broken), key=lambda clip: clip.clip)
    limit.check(broken)
    if not any(part.clips for part in parts):
        raise ValueError(
            f"none of the {len(table)} clips could be read; the first: {broken[0].path}: "
            f"{broken[0].reason}"
        )
    order = torch.cat([batch for part in parts for batch in part.clips]).argsort()

    def joined(name: str) -> Tensor:
        return torch.cat([batch for part in parts for batch in getattr(part, name)])[order]

    return Scores(
        clips=joined("clips"),
        probabilities=joined("probabilities"),
        labels=joined("labels"),
        space=table.space,
        broken=tuple(broken),
        seconds=seconds,
        single_view=joined("middle") if config.num_views > 1 else None,
        durations=joined("seconds"),
    )


@torch.no_grad()
def view_probabilities(
    model: VideoClassifier, preprocessing: Preprocessing, video: Tensor, precision: Precision
) -> Tensor:
    """uint8 views (B, V, T, C, H, W) -> class probabilities (B, V, K); a clip's are their mean."""
    task = make_task(model.adapter_set.info.space)
    B, V = video.shape[:2]
    with autocast(video.device, precision):
        logits = model(preprocessing.normalize(video.flatten(0, 1)))
    return task.probabilities(logits).reshape(B, V, -1)
