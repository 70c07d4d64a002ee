"""Balanced epochs: every clip about as often as its weight says, and always the same ones."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stadapter.data import EpochSampler

Keys = list[tuple[int, int]]


def keys(weights: NDArray[np.float64], *, epoch: int = 0, skip: int = 0, **settings: int) -> Keys:
    sampler = EpochSampler(len(weights), shuffle=True, weights=weights, **settings)
    sampler.epoch, sampler.skip = epoch, skip
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


weights = st.lists(st.integers(1, 40), min_size=1, max_size=40).map(lambda w: np.array(w) / 7)


@given(weights=weights, seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_every_clip_comes_as_often_as_its_weight_says(
    weights: NDArray[np.float64], seed: int, epoch: int
) -> None:
    drawn = keys(weights, seed=seed, epoch=epoch)
    assert len(drawn) == len(weights)
    expected = weights / weights.sum() * len(weights)
    times = Counter(clip for _, clip in drawn)
    for clip, draws in enumerate(expected):
        assert np.floor(draws - 1e-9) <= times[clip] <= np.ceil(draws + 1e-9)
    # The same for a whole class, whose clips weigh the same.
    for weight in set(weights):
        members = np.flatnonzero(weights == weight)
        total = expected[members].sum()
        assert abs(sum(times[clip] for clip in members) - total) < 1 + 1e-9


@given(weights=weights, seed=st.integers(0, 99))
def test_no_key_comes_twice_in_a_run(weights: NDArray[np.float64], seed: int) -> None:
    """So a clip that comes again has another crop and other frames."""
    drawn = [key for epoch in range(4) for key in keys(weights, seed=seed, epoch=epoch)]
    assert len(set(drawn)) == len(drawn)


@given(
    weights=weights, epoch=st.integers(0, 3), skip=st.integers(0, 10), num_ranks=st.integers(1, 4)
)
def test_ranks_and_interruptions_share_one_order(
    weights: NDArray[np.float64], epoch: int, skip: int, num_ranks: int
) -> None:
    whole = keys(weights, epoch=epoch)
    assert keys(weights, epoch=epoch) == whole
    for rank in range(num_ranks):
        own = keys(weights, epoch=epoch, rank=rank, num_ranks=num_ranks)
        assert own == whole[rank::num_ranks]
        left = keys(weights, epoch=epoch, rank=rank, num_ranks=num_ranks, skip=skip)
        assert left == whole[skip:][rank::num_ranks]


def test_epochs_and_seeds_differ() -> None:
    weights = np.arange(1.0, 30)
    orders = [[clip for _, clip in keys(weights, seed=s, epoch=e)] for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("shuffle", [True, False])
def test_without_weights_every_clip_comes_once(shuffle: bool) -> None:
    sampler = EpochSampler(9, shuffle=shuffle)
    sampler.epoch = 2
    assert sorted(sampler) == [(2, clip) for clip in range(9)]
