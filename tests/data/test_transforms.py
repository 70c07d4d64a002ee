"""Frames to pixels: sizes, crops, types, values."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stadapter.data.transforms import AugmentConfig, Preprocessing, resize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def preprocessing(height: int = 32, width: int = 32, **changes: Any) -> Preprocessing:
    return Preprocessing((height, width), MEAN, STD, **changes)


def video(height: int, width: int, num_frames: int = 2) -> Tensor:
    return torch.randint(0, 256, (num_frames, 3, height, width), dtype=torch.uint8)


sides = st.integers(1, 70)
targets = st.sampled_from([8, 24, 32])


@given(h=sides, w=sides, target=st.tuples(targets, targets), spatial=st.sampled_from([1, 3]))
def test_views_have_the_resolution_whatever_the_file_has(
    h: int, w: int, target: tuple[int, int], spatial: int
) -> None:
    views = preprocessing(*target).views(video(h, w), spatial)
    assert views.shape == (spatial, 2, 3, *target)
    assert views.dtype == torch.uint8


@given(h=sides, w=sides, target=st.tuples(targets, targets), seed=st.integers(0, 9))
def test_training_clips_have_the_resolution_whatever_the_file_has(
    h: int, w: int, target: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    clip = AugmentConfig().apply(video(h, w), preprocessing(*target))
    assert clip.shape == (2, 3, *target)
    assert clip.dtype == torch.uint8


@given(
    h=sides,
    w=sides,
    target=st.tuples(targets, targets),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 9),
)
def test_how_frames_lie_in_memory_changes_no_pixel(
    h: int, w: int, target: tuple[int, int], interpolation: Any, seed: int
) -> None:
    planes = video(h, w)
    pixels = planes.contiguous(memory_format=torch.channels_last)
    wanted = preprocessing(*target, interpolation=interpolation)

    def both(frames: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return wanted.views(frames), AugmentConfig(rand_augment=seed % 3).apply(frames, wanted)

    for result, expected in zip(both(pixels), both(planes), strict=True):
        assert result.is_contiguous()
        assert torch.equal(result, expected)


def test_a_huge_frame() -> None:
    assert preprocessing(16, 16).views(video(1080, 1920, 1)).shape == (1, 1, 3, 16, 16)
    assert preprocessing(16, 16).views(video(2, 1200, 1), 3).shape == (3, 1, 3, 16, 16)


@pytest.mark.parametrize("along", ["width", "height"])
def test_three_crops_are_both_ends_and_the_centre(along: str) -> None:
    frames = video(16, 40) if along == "width" else video(40, 16)
    long = frames if along == "width" else frames.transpose(-1, -2)
    first, centre, last = preprocessing(16, 16).views(frames, 3)
    if along == "height":
        first, centre, last = (v.transpose(-1, -2) for v in (first, centre, last))
    assert torch.equal(first, long[..., :16])
    assert torch.equal(centre, long[..., 12:28])
    assert torch.equal(last, long[..., 24:])
    [only] = preprocessing(16, 16).views(frames, 1)
    assert torch.equal(only, frames[..., :, 12:28] if along == "width" else frames[..., 12:28, :])


def test_the_whole_short_side_is_seen() -> None:
    """A frame is resized until it just covers the resolution, so nothing is squeezed."""
    frames = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    frames[..., 10:, :] = 255
    [view] = preprocessing(40, 40).views(frames)
    assert view[..., :16, :].max() == 0
    assert view[..., 24:, :].min() == 255


def test_pixels_that_need_no_resizing_are_not_touched() -> None:
    frames = video(32, 32)
    assert torch.equal(preprocessing(32, 32).views(frames)[0], frames)
    assert torch.equal(resize(frames, (32, 32), "bicubic"), frames)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_grey_frame_stays_grey(interpolation: str) -> None:
    frames = torch.full((1, 3, 50, 70), 200, dtype=torch.uint8)
    views = preprocessing(32, 48, interpolation=interpolation).views(frames)
    assert views.unique().tolist() == [200]


def test_resizing_is_antialiased() -> None:
    """Fine noise averages out, and does not become coarse noise."""
    frames = video(256, 256, 1)
    [view] = preprocessing(16, 16).views(frames)
    assert frames.float().std() > 70
    assert view.float().std() < 10


def test_normalize() -> None:
    frames = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    black, white = preprocessing().normalize(frames)
    for c in range(3):
        assert torch.allclose(black[c], torch.tensor(-MEAN[c] / STD[c]))
        assert torch.allclose(white[c], torch.tensor((1 - MEAN[c]) / STD[c]))
    assert black.dtype == torch.float32
    batch = torch.randint(0, 256, (2, 5, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(
        preprocessing().normalize(batch)[1, 2], preprocessing().normalize(batch[1, 2])
    )


def test_preprocessing_survives_json() -> None:
    settings = preprocessing(32, 48)
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    for changed in ({**settings.to_dict(), "gamma": 1}, {"resolution": [32, 32]}):
        with pytest.raises(ValueError, match="preprocessing has"):
            Preprocessing.from_dict(changed)


def test_only_one_or_three_crops() -> None:
    with pytest.raises(ValueError, match=r"num_spatial_views \(2\) must be 1 or 3"):
        preprocessing().views(video(32, 32), 2)


# -- augmentation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(crop_scale=(0.2, 0.9)),
        AugmentConfig(rand_augment=4, rand_augment_magnitude=15),
    ],
)
def test_all_frames_of_a_clip_get_the_same_changes(augment: AugmentConfig) -> None:
    still = video(40, 56, 1).expand(5, -1, -1, -1)
    for seed in range(10):
        torch.manual_seed(seed)
        clip = augment.apply(still, preprocessing())
        assert all(torch.equal(frame, clip[0]) for frame in clip)


def test_clips_differ_and_a_seed_repeats_them() -> None:
    frames, seen = video(40, 56), []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        seen.append(AugmentConfig().apply(frames, preprocessing()))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_flips_are_left_to_whoever_knows_the_label() -> None:
    frames = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    frames[..., 16:] = 255
    augment = AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip="on")
    for _ in range(20):
        clip = augment.apply(frames, preprocessing()).float()
        assert clip[..., 0].mean() < clip[..., -1].mean()


def test_flip_takes_what_yaml_makes_of_on_and_off() -> None:
    assert AugmentConfig(flip=True) == AugmentConfig(flip="on")
    assert AugmentConfig(flip=False) == AugmentConfig(flip="off") == AugmentConfig()
    with pytest.raises(ValueError, match="flip 'left' must be off, on or auto"):
        AugmentConfig(flip="left")  # type: ignore[arg-type]


def test_crops_keep_to_their_scale() -> None:
    """Column numbers as pixel values show how much of the frame a crop takes."""
    frames = torch.arange(0, 200, 2, dtype=torch.uint8).expand(1, 3, 100, 100)
    augment = AugmentConfig(crop_scale=(0.25, 0.25), crop_ratio=(1, 1))
    for _ in range(10):
        clip = augment.apply(frames, preprocessing(50, 50))
        assert 94 <= int(clip.max()) - int(clip.min()) <= 102  # half of the 100 columns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_scale": (0.6, 0.5)}, "crop_scale"),
        ({"crop_scale": (0.5, 1.1)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"rand_augment": -1}, "rand_augment"),
        ({"rand_augment_magnitude": 31}, "rand_augment"),
    ],
)
def test_impossible_augmentation_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)
