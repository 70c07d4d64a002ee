"""One study at a time in a folder."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WAIT_SECONDS = 15.0
"""Runs of a study that was killed end by themselves, and this is more than they need for it."""


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock; yields its file descriptor, which children that inherit it hold as well.

    Where the system has no such locks (Windows) nothing is held.

    Raises:
        RuntimeError: another process holds it, and still does after some seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"another study is running in {path.parent}; wait for its end, or choose "
                    "another --out"
                ) from error
            time.sleep(0.2)
