"""From video files and labels to batches. Knows no models."""

from stadapter.data.annotations import ClipTable, Collection, check_trainable, load_collection
from stadapter.data.dataset import (
    Batch,
    BrokenClip,
    BrokenLimit,
    ClipDataset,
    EpochSampler,
    TestReader,
    TooManyBrokenError,
    TrainReader,
    make_loader,
)
from stadapter.data.sampling import SamplingConfig, sample_test, sample_train
from stadapter.data.skip_list import LeftOut, leave_out
from stadapter.data.transforms import AugmentConfig, Preprocessing
from stadapter.data.video import VideoError, VideoReader, find_videos, read_clip

__all__ = [
    "AugmentConfig",
    "Batch",
    "BrokenClip",
    "BrokenLimit",
    "ClipDataset",
    "ClipTable",
    "Collection",
    "EpochSampler",
    "LeftOut",
    "Preprocessing",
    "SamplingConfig",
    "TestReader",
    "TooManyBrokenError",
    "TrainReader",
    "VideoError",
    "VideoReader",
    "check_trainable",
    "find_videos",
    "leave_out",
    "load_collection",
    "make_loader",
    "read_clip",
    "sample_test",
    "sample_train",
]
