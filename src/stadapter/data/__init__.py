"""From video files and labels to batches. Knows no models."""

from stadapter.data.annotations import (
    FORMATS,
    ClipTable,
    Collection,
    DataConfig,
    LeftOut,
    announce_collection,
    check_trainable,
    leave_out,
    load_collection,
)
from stadapter.data.broken import (
    BrokenClip,
    BrokenLimit,
    OnBroken,
    TooManyBrokenError,
    count_by_reason,
    merge_broken,
    skipped,
    write_broken,
)
from stadapter.data.dataset import (
    Batch,
    ClipDataset,
    EpochSampler,
    TestReader,
    TrainReader,
    collate,
    make_loader,
)
from stadapter.data.labels import LabelSpace
from stadapter.data.mirror import Mirror, flipped_clips
from stadapter.data.mixing import draw_mixing
from stadapter.data.sampling import SamplingConfig, sample_test, sample_train
from stadapter.data.transforms import AugmentConfig, Preprocessing
from stadapter.data.video import VideoError, VideoReader, find_videos, read_clip
from stadapter.data.watchdog import WorkerKilledError, naming_killed_workers

__all__ = [
    "FORMATS",
    "AugmentConfig",
    "Batch",
    "BrokenClip",
    "BrokenLimit",
    "ClipDataset",
    "ClipTable",
    "Collection",
    "DataConfig",
    "EpochSampler",
    "LabelSpace",
    "LeftOut",
    "Mirror",
    "OnBroken",
    "Preprocessing",
    "SamplingConfig",
    "TestReader",
    "TooManyBrokenError",
    "TrainReader",
    "VideoError",
    "VideoReader",
    "WorkerKilledError",
    "announce_collection",
    "check_trainable",
    "collate",
    "count_by_reason",
    "draw_mixing",
    "find_videos",
    "flipped_clips",
    "leave_out",
    "load_collection",
    "make_loader",
    "merge_broken",
    "naming_killed_workers",
    "read_clip",
    "sample_test",
    "sample_train",
    "skipped",
    "write_broken",
]
