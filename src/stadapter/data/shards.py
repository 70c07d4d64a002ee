"""Members of tar shards as files, by a path *through* the tar: `DIR/train-000000.tar/NAME.mp4`.

So a clip in a shard is a clip like any other: samplers, resuming and reports need not know. The
tars are plain ones, as WebDataset and others write them. Each process reads the headers of a tar
once, when its first member is asked for, and keeps names and places (about 100 bytes a member); the
members themselves are read one by one from where they lie.

A damaged tar costs the members that cannot be found or read whole, and no others.
"""

import io
import os
import posixpath
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ShardIndex:
    """Where the members of one tar lie; row i of each column is one member, sorted by name."""

    names: NDArray[np.bytes_]
    """UTF-8 names."""
    offsets: NDArray[np.int64]
    """Bytes before each member's content."""
    sizes: NDArray[np.int64]
    """Bytes of each member's content."""
    stamp: tuple[int, int]
    """Size and modification time (ns) of the tar when it was read."""
    damage: str | None
    """Why headers after the last member could not be read, if so."""

    def find(self, name: str) -> tuple[int, int] | None:
        """(offset, size) of a member; of the last one, where several have the name."""
        row = int(np.searchsorted(self.names, np.bytes_(name.encode()), side="right")) - 1
        if row < 0 or self.names[row].decode() != name:
            return None
        return int(self.offsets[row]), int(self.sizes[row])


_INDEXES: dict[str, ShardIndex] = {}
"""One per tar that this process has read from."""


def open_member(path: str) -> io.BytesIO | None:
    """The content of a member, in memory, or None if `path` does not lead through a tar file.

    Raises:
        FileNotFoundError: the tar holds no such member.
        OSError: the tar cannot be read, or holds only a part of the member.
    """
    way = _through_tar(path)
    return None if way is None else _read(*way)


def member_stamp(path: str) -> tuple[int, int] | None:
    """Bytes of a member and time of change (ns) of its tar; None as for `open_member`.

    Raises:
        FileNotFoundError: the tar holds no such member.
        OSError: the tar cannot be read.
    """
    way = _through_tar(path)
    if way is None:
        return None
    index, (_, size) = _find(*way)
    return size, index.stamp[1]


def shard_index(tar: Path) -> ShardIndex:
    """Names and places of the regular files in a tar, from its headers; cached until it changes.

    Raises:
        OSError: the tar cannot be read.
    """
    status = tar.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    index = _INDEXES.get(str(tar))
    if index is None or index.stamp != stamp:
        index = _INDEXES[str(tar)] = _read_index(tar, stamp)
    return index


def _through_tar(path: str) -> tuple[Path, str] | None:
    """The tar that a path leads through, and the name behind it."""
    if ".tar" not in path.lower():
        return None
    for parent in Path(path).parents:
        if parent.suffix.lower() == ".tar" and parent.is_file():
            return parent, Path(path).relative_to(parent).as_posix()
    return None


def _find(tar: Path, name: str) -> tuple[ShardIndex, tuple[int, int]]:
    """The tar's index, and (offset, size) of a member."""
    index = shard_index(tar)
    place = index.find(name)
    if place is None:
        damage = f"; the shard is damaged: {index.damage}" if index.damage else ""
        raise FileNotFoundError(f"no member {name!r} in the shard{damage}")
    return index, place


def _read(tar: Path, name: str) -> io.BytesIO:
    _, (offset, size) = _find(tar, name)
    with tar.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"the shard is truncated: {len(content)} of {size} bytes are there")
    return io.BytesIO(content)


def _read_index(tar: Path, stamp: tuple[int, int]) -> ShardIndex:
    names, places, damage = [], [], None
    end = 0  # of the last member, with padding
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isreg() and not member.issparse():
                    names.append(posixpath.normpath(member.name).encode(errors="surrogateescape"))
                    places.append((member.offset_data, member.size))
                file.members = []  # type: ignore[attr-defined]  # or a kilobyte of each is kept
    except tarfile.TarError as error:
        damage = str(error)
    damage = damage or _check_end(tar, end)
    order = np.argsort(np.array(names, dtype=np.bytes_), kind="stable")
    columns = np.array(places, dtype=np.int64).reshape(-1, 2)[order]
    sorted_names = np.array(names, dtype=np.bytes_)[order]
    return ShardIndex(sorted_names, columns[:, 0].copy(), columns[:, 1].copy(), stamp, damage)


def _check_end(tar: Path, end: int) -> str | None:
    """tarfile stops without a word at a header that it cannot read; a tar ends with zeros."""
    with tar.open("rb") as file:
        if file.seek(0, os.SEEK_END) < end:
            return f"it ends at byte {file.tell()}, within its last member"
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    return None if not block.strip(b"\0") else f"byte {end} begins no member"
