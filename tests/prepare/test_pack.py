"""Shards are as full as allowed, and the same however often packing was stopped."""

import hashlib
from pathlib import Path

import pytest

from stadapter.data.shards import open_member
from stadapter.prepare.pack import Sample, pack_shards

LIMIT = 20_000


def samples(folder: Path, count: int) -> list[Sample]:
    """Loose files of various sizes in two splits; one is larger than a shard."""
    folder.mkdir(parents=True, exist_ok=True)
    result = []
    for i in range(count):
        content = hashlib.sha256(str(i).encode()).digest() * (40 + 977 * (i == 5))
        video = folder / f"clip{i}.mp4"
        video.write_bytes(content)
        split = "val" if i % 3 == 2 else "train"
        result.append(Sample(split, video.stem, video, len(content), b'{"i": %d}' % i))
    return result


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}


def test_packing_that_is_stopped_anywhere_ends_in_the_same_shards(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    places = pack_shards(whole, samples(whole / "videos", 20), LIMIT)
    expected = tars(whole)
    assert len(expected) > 5
    assert not list((whole / "videos").iterdir())
    large = next(name for name, content in expected.items() if len(content) > LIMIT)
    for (split, name), path in places.items():
        assert path.startswith(f"shards/{split}-")
        member = open_member(str(whole / path))
        assert member is not None
        number = int(name.removeprefix("clip"))
        assert member.read(32) == hashlib.sha256(str(number).encode()).digest()
    assert places["val", "clip5"].split("/")[1] == large
    for kept in range(len(expected)):
        # Killed after that many shards, before the loose files of the last were deleted.
        out = tmp_path / f"stopped{kept}"
        todo = samples(out / "videos", 20)
        (out / "shards").mkdir()
        for name in list(expected)[:kept]:
            (out / "shards" / name).write_bytes(expected[name])
        assert pack_shards(out, todo, LIMIT) == places
        assert tars(out) == expected
        assert not list((out / "videos").iterdir())


def test_a_clip_that_changes_its_split_is_not_lost(tmp_path: Path) -> None:
    first = samples(tmp_path / "videos", 6)
    pack_shards(tmp_path, first, LIMIT)
    swapped = [
        Sample("train" if s.split == "val" else "val", s.name, s.video, s.num_bytes, s.record)
        for s in first
    ]
    places = pack_shards(tmp_path, swapped, LIMIT)
    assert set(places) == {(s.split, s.name) for s in swapped}
    for path in places.values():
        assert open_member(str(tmp_path / path)) is not None
    inside = [
        open_member(f"{tmp_path}/shards/{name}/clip0.mp4")
        for name in tars(tmp_path)
        if "val" in name and b"clip0.mp4" in tars(tmp_path)[name]
    ]
    assert len(inside) == 1


def test_a_shard_that_cannot_be_written_leaves_all_clips(tmp_path: Path) -> None:
    todo = samples(tmp_path / "videos", 6)
    (tmp_path / "shards" / "train-000000.tar").mkdir(parents=True)  # in the way
    with pytest.raises(OSError, match="train-000000"):
        pack_shards(tmp_path, todo, LIMIT)
    assert len(list((tmp_path / "videos").iterdir())) == 6
