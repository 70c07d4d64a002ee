"""A clip's bytes: a file's, or those of a member of a tar shard, by a path through the tar."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path

from stadapter.data.shards import member_stamp, open_member

Bytes = mmap | bytes
Stamp = tuple[int, int]
"""(bytes, time of the last change in nanoseconds); of a member: of it, and of its tar."""


def stamp(path: str) -> Stamp:
    """Size and time of a file or member.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be reached.
    """
    found = member_stamp(path)
    if found is not None:
        return found
    if not os.path.isfile(path):  # noqa: PTH113 - a million of them, and strings are what we have
        raise FileNotFoundError("not a file" if Path(path).exists() else "no such file")
    status = os.stat(path)  # noqa: PTH116
    return status.st_size, status.st_mtime_ns


@contextmanager
def content(path: str) -> Iterator[Bytes]:
    """All bytes of a file or member that is not empty.

    Raises:
        OSError: it cannot be read.
    """
    member = open_member(path)
    if member is not None:
        yield member.getvalue()
        return
    with Path(path).open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        yield data


def video_source(path: str) -> object:
    """What FFmpeg opens: the file, whatever its name looks like, or the member in memory.

    Raises:
        OSError: the member cannot be read.
    """
    return open_member(path) or f"file:{path}"
