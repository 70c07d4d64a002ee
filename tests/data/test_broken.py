"""A clip that cannot be read is skipped, salvaged or fatal, and always named.

However the reading fails: by an exception, by never coming back, or by death.
"""

import csv
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from videos import numbered_frames, shown_numbers, write_video

from stadapter.data import (
    AugmentConfig,
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
    TooManyBrokenError,
    TrainReader,
    WorkerKilledError,
    count_by_reason,
    make_loader,
    merge_broken,
    naming_killed_workers,
    write_broken,
)

PREPROCESSING = Preprocessing((24, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
READER = TestReader(SamplingConfig(4), PREPROCESSING)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ClipTable:
    """Whole, cut after 80%, cut after 20%, text, whole, vanished."""
    folder = tmp_path_factory.mktemp("clips")
    whole = write_video(folder / "whole.mp4", numbered_frames(20), gop=4, faststart=True)
    content = whole.read_bytes()
    with av.open(str(whole)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    (folder / "most.mp4").write_bytes(content[: places[16] + 5])  # the 17th begins
    (folder / "little.mp4").write_bytes(content[: places[4] + 5])
    (folder / "text.mp4").write_text("no video" * 99)
    names = ("whole", "most", "little", "text", "whole", "vanished")
    paths = tuple(str(folder / f"{name}.mp4") for name in names)
    return ClipTable(paths, np.array([0, 1, 0, 1, 0, 1]), LabelSpace.single_label(("a", "b")))


def load(
    table: ClipTable, read: Any = READER, *, num_workers: int = 0, **settings: Any
) -> tuple[dict[int, Tensor], list[BrokenClip]]:
    """Clip -> video, and what is said about the others, of one epoch."""
    dataset = ClipDataset(table, read, **settings)
    sampler = EpochSampler(len(table), shuffle=False)
    loader = make_loader(dataset, sampler, batch_size=2, num_workers=num_workers)
    videos: dict[int, Tensor] = {}
    broken: list[BrokenClip] = []
    with naming_killed_workers(dataset.whereabouts, table.paths):
        for batch in loader:
            videos |= dict(zip(batch.clips.tolist(), batch.video, strict=True))
            broken += batch.broken
    return videos, broken


# -- policy ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # few cores
@pytest.mark.parametrize("num_workers", [0, 2, 4])
def test_salvage_takes_what_is_before_the_damage_if_it_is_enough(
    table: ClipTable, num_workers: int
) -> None:
    videos, broken = load(table, on_broken="salvage", num_workers=num_workers)
    assert sorted(videos) == [0, 1, 4]
    assert [(b.clip, b.action) for b in broken] == [
        (1, "salvaged"),
        (2, "skipped"),
        (3, "skipped"),
        (5, "skipped"),
    ]
    assert "truncated" in broken[0].reason
    assert broken[3].reason == "no such file"
    assert all(b.path == table.paths[b.clip] for b in broken)
    shown = shown_numbers(videos[1][0])
    assert shown_numbers(videos[0][0]) == [2, 7, 12, 17]
    assert shown == sorted(shown)
    assert 10 <= shown[-1] < 17
    skipping, reported = load(table, on_broken="skip", num_workers=num_workers)
    assert sorted(skipping) == [0, 4]
    assert [b.clip for b in reported] == [1, 2, 3, 5]
    assert all(b.action == "skipped" for b in reported)


def test_a_salvaged_clip_depends_on_seed_epoch_and_clip_alone(table: ClipTable) -> None:
    reader = TrainReader(SamplingConfig(4), PREPROCESSING, AugmentConfig(), seed=1)
    one, _ = load(table, reader, on_broken="salvage")
    two, _ = load(table, reader, on_broken="salvage", num_workers=2)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[clip], two[clip]) for clip in one)


@pytest.mark.parametrize(
    ("on_broken", "stops"), [("skip", False), ("salvage", False), ("fail", True)]
)
def test_fail_allows_no_clip_whatever_the_limit(on_broken: OnBroken, stops: bool) -> None:
    broken = [BrokenClip(0, "a.mp4", "gone"), BrokenClip(1, "b.mp4", "cut", "salvaged")]
    limit = BrokenLimit(2, 0.5, on_broken)
    limit.check(broken[1:])
    if stops:
        with pytest.raises(TooManyBrokenError, match=r"--on_broken fail allows none.*\n.*a\.mp4"):
            limit.check(broken)
    else:
        limit.check(broken)  # one of two is skipped; the salvaged one does not count
        with pytest.raises(TooManyBrokenError, match="--max_broken"):
            BrokenLimit(2, 0.4, on_broken).check(broken)


CLIPS = st.builds(
    BrokenClip,
    clip=st.integers(0, 5),
    path=st.just("a.mp4"),
    reason=st.sampled_from(["gone", "cut"]),
    action=st.sampled_from(["skipped", "salvaged"]),
)


@given(clips=st.lists(CLIPS, max_size=12))
def test_each_clip_is_noted_once_and_skipped_outweighs(clips: list[BrokenClip]) -> None:
    known: dict[int, BrokenClip] = {}
    merge_broken(known, clips)
    assert known.keys() == {clip.clip for clip in clips}
    for number, kept in known.items():
        same = [clip for clip in clips if clip.clip == number]
        strongest = [clip for clip in same if clip.action == "skipped"] or same
        assert kept == strongest[0]
    again = dict(known)
    merge_broken(again, clips)
    assert again == known


# -- broken.csv --------------------------------------------------------------------------------


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_list_keeps_other_splits_and_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "broken.csv"
    odd = 'a, "b"\n.mp4'
    train = [BrokenClip(7, "z.mp4", "gone"), BrokenClip(2, odd, "cut, short", "salvaged")]
    write_broken(path, "train", train)
    write_broken(path, "val", [BrokenClip(0, "v.mp4", "gone")])
    assert rows(path) == [
        ["path", "split", "reason", "action"],
        [odd, "train", "cut, short", "salvaged"],
        ["z.mp4", "train", "gone", "skipped"],
        ["v.mp4", "val", "gone", "skipped"],
    ]
    write_broken(path, "train", [])
    assert [row[0] for row in rows(path)] == ["path", "v.mp4"]
    path.write_text("something else")
    write_broken(path, "val", [])
    assert rows(path) == [["path", "split", "reason", "action"]]


def test_reasons_are_counted_without_their_numbers() -> None:
    broken = [
        BrokenClip(i, "a", f"truncated: {i} of 1,000 frames", "salvaged") for i in range(3)
    ] + [BrokenClip(9, "a", "gone")]
    assert count_by_reason(broken) == {"salvaged: truncated: N of N frames": 3, "skipped: gone": 1}


# -- never coming back, and death --------------------------------------------------------------


def read_or_misbehave(path: str, key: Sequence[int] = (), **part: Any) -> Tensor:
    """Clip 2 never comes back from C, clip 3 kills its process, as the file's name says."""
    if path.startswith("hang"):
        re.match(r"(a*)*b", "a" * 60)  # for years, in C, without letting go of Python's lock
    if path.startswith("die"):
        os.kill(os.getpid(), int(path.split()[1]))
    return READER(str(Path(path)), (0, 0), **part)


def with_path(table: ClipTable, clip: int, path: str) -> ClipTable:
    return replace(table, paths=(*table.paths[:clip], path, *table.paths[clip + 1 :]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_decoder_that_hangs_in_c_is_cut_off(table: ClipTable, num_workers: int) -> None:
    hanging = with_path(table, 2, "hang")
    settings = {"on_broken": "salvage", "num_workers": num_workers}
    videos, broken = load(hanging, read_or_misbehave, decode_timeout_seconds=4.0, **settings)
    expected, others = load(table, on_broken="salvage")
    assert broken[1] == BrokenClip(2, "hang", "not read within 4 s (--decode_timeout_seconds)")
    assert [b for b in broken if b.clip != 2] == [b for b in others if b.clip != 2]
    assert videos.keys() == expected.keys()
    assert all(torch.equal(videos[clip], expected[clip]) for clip in videos)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_decoder_that_crashes_costs_one_clip_where_it_has_its_own_process(
    table: ClipTable,
) -> None:
    crashing = with_path(table, 2, f"die {signal.SIGABRT.value}")
    videos, broken = load(crashing, read_or_misbehave, decode_timeout_seconds=60.0)
    assert sorted(videos) == [0, 4]
    assert broken[1].reason == "the decoder crashed (signal 6)"
    killed = with_path(table, 2, f"die {signal.SIGKILL.value}")  # what a full memory does
    with pytest.raises(WorkerKilledError, match=r"killed.* at die 9\."):
        load(killed, read_or_misbehave, decode_timeout_seconds=60.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_stops_the_loop_with_its_clip(
    table: ClipTable, number: signal.Signals
) -> None:
    path = f"die {number.value}"
    with pytest.raises(WorkerKilledError, match=rf"killed or crashed at {path}\."):
        load(with_path(table, 3, path), read_or_misbehave, num_workers=2)


def test_other_errors_of_a_loop_pass_as_they_are(table: ClipTable) -> None:
    dataset = ClipDataset(table, READER)
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        naming_killed_workers(dataset.whereabouts, table.paths),
    ):
        raise RuntimeError("out of memory")


def test_no_process_outlives_its_reader(table: ClipTable) -> None:
    dataset = ClipDataset(table, READER, decode_timeout_seconds=60.0)
    dataset[0, 0]
    child = dataset.read._child
    assert child != os.getpid()
    del dataset
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status)
