"""Index arithmetic, without a video."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stadapter.data.sampling import SamplingConfig, sample_test, sample_train

totals = st.integers(1, 400)
frames = st.integers(1, 40)
strides = st.one_of(st.none(), st.integers(1, 20))
seeds = st.integers(0, 2**32)


def check_clip(indices: list[int], total: int, config: SamplingConfig) -> None:
    assert len(indices) == config.num_frames
    assert indices == sorted(indices)
    assert indices[0] >= 0 and indices[-1] < total


@given(total=totals, num_frames=frames, stride=strides, seed=seeds)
def test_training_clips_are_within_the_video_and_in_order(
    total: int, num_frames: int, stride: int | None, seed: int
) -> None:
    config = SamplingConfig(num_frames, stride)
    indices = sample_train(total, config, Random(seed))
    check_clip(indices, total, config)
    assert indices == sample_train(total, config, Random(seed))


@given(total=totals, num_frames=frames, stride=strides, views=st.integers(1, 12))
def test_every_test_view_is_within_the_video_and_in_order(
    total: int, num_frames: int, stride: int | None, views: int
) -> None:
    config = SamplingConfig(num_frames, stride)
    clips = sample_test(total, config, views)
    assert len(clips) == views
    for indices in clips:
        check_clip(indices, total, config)


@given(total=totals, num_frames=frames, seed=seeds, views=st.integers(1, 6))
def test_uniform_clips_take_one_frame_of_each_segment(
    total: int, num_frames: int, seed: int, views: int
) -> None:
    config = SamplingConfig(num_frames)
    clips = [sample_train(total, config, Random(seed)), *sample_test(total, config, views)]
    for indices in clips:
        for i, index in enumerate(indices):
            # The segment from i*total/T to (i+1)*total/T, whole frames that touch it.
            assert i * total // num_frames <= index
            assert index * num_frames < (i + 1) * total


@given(total=st.integers(40, 400), num_frames=frames)
def test_every_frame_of_a_segment_can_be_drawn(total: int, num_frames: int) -> None:
    config = SamplingConfig(num_frames)
    drawn = {sample_train(total, config, Random(seed))[0] for seed in range(400)}
    first_segment = range(total // num_frames)
    if len(first_segment) <= 20:
        assert drawn == set(first_segment)


@given(total=totals, num_frames=frames, stride=st.integers(1, 20), seed=seeds)
def test_dense_clips_are_evenly_spaced_until_the_last_frame_repeats(
    total: int, num_frames: int, stride: int, seed: int
) -> None:
    config = SamplingConfig(num_frames, stride)
    clips = [sample_train(total, config, Random(seed)), *sample_test(total, config, 4)]
    for indices in clips:
        for a, b in pairwise(indices):
            assert b == min(a + stride, total - 1)
        if (num_frames - 1) * stride + 1 > total:
            assert indices[0] == 0  # all of a short video is seen


@given(total=totals, num_frames=frames, stride=st.integers(1, 20), views=st.integers(2, 10))
def test_several_dense_views_go_evenly_from_the_first_start_to_the_last(
    total: int, num_frames: int, stride: int, views: int
) -> None:
    config = SamplingConfig(num_frames, stride)
    starts = [clip[0] for clip in sample_test(total, config, views)]
    last = max(0, total - (num_frames - 1) * stride - 1)
    assert (starts[0], starts[-1]) == (0, last)
    for v, start in enumerate(starts):
        assert abs(start - last * v / (views - 1)) <= 0.5
    if views % 2:  # the middle view is where a single one would be, up to rounding
        assert abs(starts[views // 2] - sample_test(total, config)[0][0]) <= 1


@pytest.mark.parametrize(
    ("total", "num_frames", "stride", "views", "expected"),
    [
        (10, 5, None, 1, [[1, 3, 5, 7, 9]]),  # the docstring's
        (10, 2, None, 1, [[2, 7]]),
        (8, 2, None, 2, [[1, 5], [3, 7]]),
        (3, 6, None, 1, [[0, 0, 1, 1, 2, 2]]),
        (1, 3, None, 2, [[0, 0, 0], [0, 0, 0]]),
        (10, 4, 2, 1, [[1, 3, 5, 7]]),
        (10, 4, 2, 3, [[0, 2, 4, 6], [2, 4, 6, 8], [3, 5, 7, 9]]),
        (5, 4, 2, 1, [[0, 2, 4, 4]]),
        (1, 3, 5, 1, [[0, 0, 0]]),
    ],
)
def test_examples(
    total: int, num_frames: int, stride: int | None, views: int, expected: list[list[int]]
) -> None:
    assert sample_test(total, SamplingConfig(num_frames, stride), views) == expected


@given(half=st.integers(1, 12), twice=st.integers(1, 30))
def test_centres_of_whole_segments_mirror_under_reversal(half: int, twice: int) -> None:
    """Nothing but their order tells a clip from its reverse where segments have odd lengths."""
    num_frames = 2 * half
    total = num_frames * (2 * twice - 1)
    [indices] = sample_test(total, SamplingConfig(num_frames))
    assert [total - 1 - i for i in reversed(indices)] == indices


def test_what_cannot_be_sampled_is_refused() -> None:
    config = SamplingConfig()
    for sample in (lambda: sample_test(0, config), lambda: sample_train(0, config, Random(0))):
        with pytest.raises(ValueError, match="0 frames"):
            sample()
    with pytest.raises(ValueError, match=r"num_temporal_views \(0\)"):
        sample_test(10, config, 0)
    with pytest.raises(ValueError, match=r"num_frames \(0\) must be at least 1"):
        SamplingConfig(num_frames=0)
    with pytest.raises(ValueError, match=r"frame_stride \(0\) must be at least 1"):
        SamplingConfig(frame_stride=0)
