"""What a clip looks like depends on (seed, epoch, clip) alone; what cannot be read is reported."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stadapter.data import (
    AugmentConfig,
    Batch,
    BrokenClip,
    BrokenLimit,
    ClipDataset,
    ClipTable,
    EpochSampler,
    Preprocessing,
    SamplingConfig,
    TestReader,
    TooManyBrokenError,
    TrainReader,
    load_collection,
    make_loader,
)

PREPROCESSING = Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TRAIN = TrainReader(
    SamplingConfig(3), PREPROCESSING, AugmentConfig(flip=True, rand_augment=1), seed=5
)


@pytest.fixture(scope="module")
def table(collection: Path) -> ClipTable:
    """8 clips, the fourth of them missing."""
    whole = load_collection(collection).whole()
    paths = list(whole.paths[:8])
    paths[3] = "/nowhere/gone.mp4"
    return replace(whole.take(range(8)), paths=paths)


def batches(
    table: ClipTable, reader: TrainReader | TestReader, *, batch_size: int, num_workers: int
) -> Iterator[tuple[int, Batch]]:
    """(epoch, batch) of two epochs with the same workers."""
    sampler = EpochSampler(len(table), shuffle=True, seed=1)
    loader = make_loader(
        ClipDataset(table, reader), sampler, batch_size=batch_size, num_workers=num_workers
    )
    for epoch in range(2):
        sampler.epoch = epoch
        for batch in loader:
            yield epoch, batch


def by_key(
    table: ClipTable, reader: TrainReader | TestReader, **settings: int
) -> dict[tuple[int, int], tuple[Tensor, int]]:
    """(epoch, clip) -> its video and label."""
    return {
        (epoch, clip): (batch.video[i], int(batch.labels[i]))
        for epoch, batch in batches(table, reader, **settings)
        for i, clip in enumerate(batch.clips.tolist())
    }


def test_workers_and_batch_size_change_no_clip(table: ClipTable) -> None:
    expected = by_key(table, TRAIN, batch_size=4, num_workers=0)
    assert len(expected) == 2 * 7
    for batch_size, num_workers in ((3, 2), (8, 1)):
        torch.manual_seed(batch_size)  # whatever the global state is
        found = by_key(table, TRAIN, batch_size=batch_size, num_workers=num_workers)
        assert found.keys() == expected.keys()
        for key, (video, label) in expected.items():
            assert torch.equal(found[key][0], video)
            assert found[key][1] == label == table.labels[key[1]]


def test_epochs_and_seeds_change_the_clips(table: ClipTable) -> None:
    clip = TRAIN(table.paths[0], (0, 0))
    assert torch.equal(clip, TRAIN(table.paths[0], (0, 0)))
    assert not torch.equal(clip, TRAIN(table.paths[0], (1, 0)))
    assert not torch.equal(clip, replace(TRAIN, seed=6)(table.paths[0], (0, 0)))


def test_reading_and_loading_leave_the_global_generator_alone(table: ClipTable) -> None:
    """Dropout of a resumed run depends on it."""
    before = torch.get_rng_state()
    TRAIN(table.paths[0], (0, 0))
    assert torch.equal(torch.get_rng_state(), before)
    for num_workers in (0, 1):
        by_key(table, TRAIN, batch_size=4, num_workers=num_workers)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_broken_clip_is_reported_and_not_replaced(table: ClipTable) -> None:
    for batch_size in (1, 3, 8):
        seen: list[int] = []
        broken: list[BrokenClip] = []
        for epoch, batch in batches(table, TRAIN, batch_size=batch_size, num_workers=0):
            assert len(batch.clips) == len(batch.labels) == len(batch.video)
            if epoch == 0:
                seen += batch.clips.tolist()
                broken += batch.broken
        assert sorted(seen) == [0, 1, 2, 4, 5, 6, 7]
        assert broken == [BrokenClip(3, "/nowhere/gone.mp4", "no such file")]


def test_test_views_are_temporal_outermost(table: ClipTable) -> None:
    reader = TestReader(SamplingConfig(3), PREPROCESSING, 2, 3)
    views = reader(table.paths[0])
    assert views.shape == (6, 3, 3, 16, 16)
    assert views.dtype == torch.uint8
    centre = TestReader(SamplingConfig(3), PREPROCESSING, 2, 1)(table.paths[0])
    assert torch.equal(views[1::3], centre)
    assert not torch.equal(centre[0], centre[1])


# -- sampler -----------------------------------------------------------------------------------


@given(
    num_clips=st.integers(0, 60),
    num_ranks=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_ranks_share_an_epoch_without_gap_or_overlap(
    num_clips: int, num_ranks: int, epoch: int, shuffle: bool
) -> None:
    shares = []
    for rank in range(num_ranks):
        sampler = EpochSampler(num_clips, shuffle=shuffle, seed=2, rank=rank, num_ranks=num_ranks)
        sampler.epoch = epoch
        keys = list(sampler)
        assert len(keys) == len(sampler)
        assert all(e == epoch for e, _ in keys)
        shares.append([clip for _, clip in keys])
    assert sorted(clip for share in shares for clip in share) == list(range(num_clips))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(num_clips=st.integers(1, 40), skip=st.integers(0, 50), num_ranks=st.integers(1, 3))
def test_skip_leaves_out_the_first_keys(num_clips: int, skip: int, num_ranks: int) -> None:
    """Counted over all ranks, of which this is the first."""
    whole = list(EpochSampler(num_clips, shuffle=True))
    sampler = EpochSampler(num_clips, shuffle=True, num_ranks=num_ranks)
    sampler.skip = skip
    assert list(sampler) == whole[skip::num_ranks]
    assert len(sampler) == len(whole[skip::num_ranks])


def test_the_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        sampler = EpochSampler(50, shuffle=shuffle, seed=seed)
        sampler.epoch = epoch
        return [clip for _, clip in sampler]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(0, 0, shuffle=False) == list(range(50))


# -- limit -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_clips", "max_broken", "allowed"), [(100, 0.01, 1), (99, 0.01, 0), (10, 0.0, 0), (4, 1, 4)]
)
def test_the_limit_of_broken_clips(num_clips: int, max_broken: float, allowed: int) -> None:
    limit = BrokenLimit(num_clips, max_broken)
    broken = [BrokenClip(i, f"{i}.mp4", f"reason {i}") for i in range(allowed + 1)]
    limit.check(broken[:allowed])
    with pytest.raises(TooManyBrokenError) as caught:
        limit.check(broken)
    assert caught.value.broken == broken
    assert f"{len(broken)} of {num_clips} clips" in str(caught.value)
    for clip in broken:
        assert f"{clip.path}: {clip.reason}" in str(caught.value)
