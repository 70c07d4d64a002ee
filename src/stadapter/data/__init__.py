"""From video files and labels to batches. Knows no models."""

from stadapter.data.annotations import (
    FORMATS,
    ClipTable,
    Collection,
    check_trainable,
    load_collection,
)
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
from stadapter.data.labels import LabelSpace
from stadapter.data.mirror import Mirror, flipped_clips
from stadapter.data.mixing import draw_mixing
from stadapter.data.sampling import SamplingConfig, sample_test, sample_train
from stadapter.data.transforms import AugmentConfig, Preprocessing
from stadapter.data.video import VideoError, VideoReader, find_videos, read_clip

__all__ = [
    "FORMATS",
    "AugmentConfig",
    "Batch",
    "BrokenClip",
    "BrokenLimit",
    "ClipDataset",
    "ClipTable",
    "Collection",
    "EpochSampler",
    "LabelSpace",
    "Mirror",
    "Preprocessing",
    "SamplingConfig",
    "TestReader",
    "TooManyBrokenError",
    "TrainReader",
    "VideoError",
    "VideoReader",
    "check_trainable",
    "draw_mixing",
    "find_videos",
    "flipped_clips",
    "load_collection",
    "make_loader",
    "read_clip",
    "sample_test",
    "sample_train",
]
