"""Which frames of a video make a clip: integer arithmetic only, testable without a video.

*Uniform* (TSN segments, `frame_stride=None`): the video is cut into T equal segments; training
takes a random frame of each, testing the centre. *Dense* (`frame_stride=s`): T frames, s apart,
from a random start in training and from evenly spaced starts in testing. A video too short repeats
its last frame.

`frame_stride` is SAMPLING_RATE in SlowFast and ST-Adapter, frame_interval in MMAction2.
"""

from dataclasses import dataclass
from itertools import pairwise
from random import Random


@dataclass(frozen=True)
class SamplingConfig:
    """How frames are chosen; travels in the adapter file."""

    num_frames: int = 8
    """T, frames per clip."""
    frame_stride: int | None = None
    """Distance between frames of a dense clip; None samples uniformly over the whole video."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames ({self.num_frames}) must be at least 1")
        if self.frame_stride is not None and self.frame_stride < 1:
            raise ValueError(
                f"frame_stride ({self.frame_stride}) must be at least 1, or None for "
                "uniform sampling"
            )


def sample_train(total: int, config: SamplingConfig, rng: Random) -> list[int]:
    """Indices of one random clip out of `total` frames, in order.

    Raises:
        ValueError: `total` is below 1.
    """
    _check_total(total)
    T = config.num_frames
    if config.frame_stride is None:
        bounds = [i * total // T for i in range(T + 1)]
        # A segment of a short video may be empty: it then takes its first frame.
        return [rng.randrange(a, max(a + 1, b)) for a, b in pairwise(bounds)]
    start = rng.randrange(max(0, total - _span(config, config.frame_stride)) + 1)
    return _dense(start, total, config.num_frames, config.frame_stride)


def sample_test(total: int, config: SamplingConfig, num_views: int = 1) -> list[list[int]]:
    """Indices of `num_views` clips spread evenly over `total` frames.

    Uniform: view v takes the fraction (2v+1)/(2V) of each segment, so one view takes its centre:

        total=10, T=5, V=1:  |0 1|2 3|4 5|6 7|8 9|  ->  [1, 3, 5, 7, 9]

    Dense: one view is centred, several start from the first possible frame to the last possible
    one.

    Raises:
        ValueError: `total` or `num_views` is below 1.
    """
    _check_total(total)
    if num_views < 1:
        raise ValueError(f"num_temporal_views ({num_views}) must be at least 1")
    T, V = config.num_frames, num_views
    if config.frame_stride is None:
        return [
            [(2 * V * i + 2 * v + 1) * total // (2 * V * T) for i in range(T)] for v in range(V)
        ]
    slack = max(0, total - _span(config, config.frame_stride))
    if V == 1:
        starts = [slack // 2]
    else:
        starts = [(2 * slack * v + V - 1) // (2 * (V - 1)) for v in range(V)]  # rounded
    return [_dense(start, total, T, config.frame_stride) for start in starts]


def _span(config: SamplingConfig, stride: int) -> int:
    return (config.num_frames - 1) * stride + 1


def _dense(start: int, total: int, num_frames: int, stride: int) -> list[int]:
    return [min(start + i * stride, total - 1) for i in range(num_frames)]


def _check_total(total: int) -> None:
    if total < 1:
        raise ValueError(f"a video of {total} frames has nothing to sample")
