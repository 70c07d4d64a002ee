"""A clip in a tar shard is the clip: same batches, errors for what is damaged, no unpacking."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from stadapter.data import (
    AugmentConfig,
    ClipDataset,
    ClipTable,
    EpochSampler,
    Preprocessing,
    SamplingConfig,
    TestReader,
    TrainReader,
    VideoError,
    VideoReader,
    load_collection,
    make_loader,
    read_clip,
)
from stadapter.data.shards import open_member, shard_index

PREPROCESSING = Preprocessing((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def content(path: str) -> bytes:
    member = open_member(path)
    assert member is not None
    return member.read()


def test_members_are_read_by_their_path(tmp_path: Path) -> None:
    long = f"{'é' * 120}/{'x' * 150}.mp4"
    members = {"b.mp4": b"B" * 700, "a.json": b"{}", "./c/d.mp4": b"", long: b"long"}
    tar = write_tar(tmp_path / "some.tar", members, tarfile.PAX_FORMAT)
    for name, expected in members.items():
        assert content(f"{tar}/{name.removeprefix('./')}") == expected
    assert [n.decode() for n in shard_index(tar).names] == sorted(
        ("b.mp4", "a.json", "c/d.mp4", long), key=str.encode
    )
    for absent in ("a.mp4", "b.mp", "b.mp4x", "c"):
        with pytest.raises(OSError, match="no member"):
            open_member(f"{tar}/{absent}")


def test_ordinary_paths_are_none_of_its_business(tmp_path: Path) -> None:
    folder = tmp_path / "folder.tar"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"x")
    write_tar(tmp_path / "a.tar", {"a": b""})
    for path in (folder / "a.mp4", tmp_path / "a.mp4", tmp_path / "a.tar", tmp_path / "no.tar/a"):
        assert open_member(str(path)) is None


def test_the_last_of_equal_names_counts_and_a_new_tar_is_seen(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a": b"old"})
    with tarfile.open(tar, "a") as file:
        member = tarfile.TarInfo("a")
        member.size = 3
        file.addfile(member, io.BytesIO(b"new"))
    assert content(f"{tar}/a") == b"new"
    write_tar(tar, {"b": b"1", "a": b"2"})
    assert content(f"{tar}/a") == b"2"


def test_a_damaged_tar_costs_what_cannot_be_read(collection: Path, tmp_path: Path) -> None:
    files = sorted(collection.rglob("*.mp4"))[:4]
    members = {f"{i}.mp4": file.read_bytes() for i, file in enumerate(files)}
    tar = write_tar(tmp_path / "a.tar", members)
    index = shard_index(tar)
    offset, _ = index.find("2.mp4") or (0, 0)
    whole = tar.read_bytes()

    def readable() -> list[bool]:
        result = []
        for name in members:
            try:
                read_clip(f"{tar}/{name}", lambda total: [total - 1])
                result.append(True)
            except VideoError as error:
                assert "shard" in error.reason
                result.append(False)
        return result

    tar.write_bytes(whole[: offset + 40])  # within the third
    assert readable() == [True, True, False, False]
    header = offset - tarfile.BLOCKSIZE
    tar.write_bytes(whole[:header] + b"\xff" * tarfile.BLOCKSIZE + whole[offset:])
    assert readable() == [True, True, False, False]
    tar.write_bytes(b"no tar at all" * 100)
    assert readable() == [False] * 4
    tar.write_bytes(b"")
    assert readable() == [False] * 4
    tar.write_bytes(whole)
    assert readable() == [True] * 4
    with pytest.raises(VideoError, match="no such file"):
        VideoReader(str(tmp_path / "gone.tar" / "a.mp4"))


@pytest.fixture(scope="module")
def tables(
    collection: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ClipTable, ClipTable]:
    """The same clips as files and in two shards; the last clip of each is missing."""
    folder = tmp_path_factory.mktemp("shards")
    clips = sorted(collection.rglob("*.mp4"))[:9]
    files, paths = [], []
    for number, some in enumerate((clips[:4], clips[4:])):
        members = {f"clip{i}.mp4": file.read_bytes() for i, file in enumerate(some)}
        tar = write_tar(folder / f"train-{number:06d}.tar", members)
        files += [str(file) for file in some]
        paths += [f"{tar}/{name}" for name in members]
    files.append(str(folder / "gone.mp4"))
    paths.append(f"{tar}/gone.mp4")
    return table(folder / "files.csv", files), table(folder / "shards.csv", paths)


def table(path: Path, files: list[str]) -> ClipTable:
    rows = [f'"{file}",{"ab"[i % 2]},train' for i, file in enumerate(files)]
    path.write_text("\n".join(["path,label,split", *rows]) + "\n")
    return load_collection(path).splits["train"]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("train", [True, False])
def test_batches_are_those_of_the_files(
    tables: tuple[ClipTable, ClipTable], train: bool, num_workers: int
) -> None:
    reader: TrainReader | TestReader = TestReader(SamplingConfig(3, 2), PREPROCESSING, 2)
    if train:
        reader = TrainReader(SamplingConfig(3), PREPROCESSING, AugmentConfig(flip=True), seed=5)
    read = []
    for table in tables:
        sampler = EpochSampler(len(table), shuffle=train, seed=1)
        loader = make_loader(
            ClipDataset(table, reader), sampler, batch_size=4, num_workers=num_workers
        )
        read.append(list(loader))
    for files, shards in zip(*read, strict=True):
        assert torch.equal(files.video, shards.video)
        assert torch.equal(files.clips, shards.clips)
        assert torch.equal(files.labels, shards.labels)
        assert [b.clip for b in files.broken] == [b.clip for b in shards.broken]
    assert sum(len(batch.broken) for batch in read[1]) == 1


def test_a_moved_shard_is_still_read(tables: tuple[ClipTable, ClipTable], tmp_path: Path) -> None:
    tar, name = tables[1].paths[0].rsplit("/", 1)
    moved = Path(shutil.copy(tar, tmp_path / "x [1] é.tar"))
    assert content(f"{moved}/{name}") == Path(tables[0].paths[0]).read_bytes()
