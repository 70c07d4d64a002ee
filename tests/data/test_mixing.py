"""Mixed clips are what the weights say, the same way in all frames, and by seed and step alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stadapter.data import draw_mixing
from stadapter.data.mixing import Mixing

VIDEO = torch.arange(4 * 3 * 3 * 8 * 10.0).reshape(4, 3, 3, 8, 10)
TARGETS = torch.eye(4)
PARTNER = (1, 2, 3, 0)


def test_the_whole_weight_is_no_mixup() -> None:
    video, targets = Mixing(PARTNER, 1.0, None).apply(VIDEO, TARGETS)
    assert torch.equal(video, VIDEO) and torch.equal(targets, TARGETS)
    video, targets = Mixing(PARTNER, 1.0, (0.5, 0.5, 0.5, 0.5)).apply(VIDEO, TARGETS)
    assert torch.equal(video, VIDEO) and torch.equal(targets, TARGETS)


def test_no_weight_is_the_partner() -> None:
    for box in (None, (0.0, 0.0, 1.0, 1.0)):
        video, targets = Mixing(PARTNER, 0.0, box).apply(VIDEO, TARGETS)
        assert torch.equal(video, VIDEO[list(PARTNER)])
        assert torch.equal(targets, TARGETS[list(PARTNER)])


def test_mixup_is_the_weighted_mean_of_clips_and_targets() -> None:
    video, targets = Mixing(PARTNER, 0.75, None).apply(VIDEO, TARGETS)
    torch.testing.assert_close(video, 0.75 * VIDEO + 0.25 * VIDEO[list(PARTNER)])
    assert targets[0].tolist() == [0.75, 0.25, 0, 0]


@given(seed=st.integers(0, 10**6), alpha=st.floats(0.1, 4))
def test_cutmix_weighs_by_the_pixels_of_one_box_in_all_frames(seed: int, alpha: float) -> None:
    mixing = draw_mixing(4, mixup=0, cutmix=alpha, seed=seed, step=0)
    assert mixing is not None and mixing.box is not None
    zeros_and_ones = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 3, 8, 10)
    video, targets = mixing.apply(zeros_and_ones, TARGETS)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    for i, partner in enumerate(mixing.partner):
        assert torch.equal(video[i], video[i, :1, :1].expand(3, 3, 8, 10))  # the same in all frames
        own = float((video[i, 0, 0] == i).float().mean())
        assert float(targets[i, i]) == pytest.approx(own)
        if partner != i:
            assert float(targets[i, partner]) == pytest.approx(1 - own)
    assert torch.equal(zeros_and_ones[:, 0, 0, 0, 0], torch.arange(4.0))  # the input is left alone


@given(step=st.integers(0, 10**6), mixup=st.floats(0.1, 4), cutmix=st.floats(0.1, 4))
def test_a_step_mixes_always_in_the_same_way(step: int, mixup: float, cutmix: float) -> None:
    a, b = (draw_mixing(5, mixup=mixup, cutmix=cutmix, seed=3, step=step) for _ in range(2))
    assert a == b and a is not None
    assert sorted(a.partner) == list(range(5))
    assert 0 <= a.weight <= 1


def test_each_step_takes_one_of_the_two_that_are_on() -> None:
    def kinds(mixup: float, cutmix: float) -> list[bool]:
        drawn = [draw_mixing(4, mixup=mixup, cutmix=cutmix, seed=0, step=s) for s in range(60)]
        return [mixing is not None and mixing.box is not None for mixing in drawn]

    assert draw_mixing(4, mixup=0, cutmix=0, seed=0, step=0) is None
    assert not any(kinds(0.5, 0))
    assert all(kinds(0, 0.5))
    assert 15 < sum(kinds(0.5, 0.5)) < 45
