"""Decoding that hangs, crashes or is killed: what a `try` around it cannot catch.

C code that does not return heeds neither exceptions nor signals of Python. So where a time limit is
asked for, clips are read in a child process that can be killed; it is forked once and again after
each kill. And every data worker notes in shared memory which clip it is at, so that the name
of that clip is known when the system kills the worker.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from stadapter.data.video import VideoError


class DecodeTimeoutError(VideoError):
    """A clip that was not read in time."""


class WorkerKilledError(RuntimeError):
    """A process that read clips was killed, usually by the system for want of memory."""


class KillableReader:
    """Calls `read` in a child process, which is killed when a call takes too long."""

    def __init__(self, read: Callable[..., Tensor], seconds: float) -> None:
        """`read(path, ...)` returns a tensor and raises `VideoError`.

        Raises:
            ValueError: this system cannot fork processes.
        """
        if not hasattr(os, "fork"):
            raise ValueError(f"decode_timeout_seconds needs a system with fork, not {sys.platform}")
        self.read = read
        self.seconds = seconds
        self._owner = 0
        self._child = 0
        self._connection: Connection[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": 0, "_child": 0, "_connection": None}

    def __call__(self, path: str, *arguments: Any, **settings: Any) -> Tensor:
        """The result of `read`.

        Raises:
            DecodeTimeoutError: it took too long.
            VideoError: what `read` raised, or the decoder crashed.
            WorkerKilledError: the system killed the child.
        """
        if self._owner != os.getpid() or self._connection is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send((path, arguments, settings))
            if not self._connection.poll(self.seconds):
                self.close()
                raise DecodeTimeoutError(
                    path, f"not read within {self.seconds:g} s (--decode_timeout_seconds)"
                )
            result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            number = self.close()
            if number == signal.SIGKILL:
                raise WorkerKilledError(killed_sentence([path])) from error
            raise VideoError(path, f"the decoder crashed (signal {number})") from error
        except KeyboardInterrupt:
            self.close()
            raise
        if isinstance(result, Exception):
            raise result
        return torch.from_numpy(result)

    def close(self) -> int:
        """Kill the child, if there is one; returns the signal that ended it."""
        connection, self._connection = self._connection, None
        if connection is None or self._owner != os.getpid():
            return 0
        connection.close()
        done, status = os.waitpid(self._child, os.WNOHANG)
        if done == 0:
            os.kill(self._child, signal.SIGKILL)
            _, status = os.waitpid(self._child, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        self._owner = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            status = 1
            try:
                self._connection.close()
                _serve(theirs, self.read, self._owner)
                status = 0
            finally:
                os._exit(status)  # nothing of the parent's may be cleaned up twice
        theirs.close()


def _serve(connection: "Connection[Any, Any]", read: Callable[..., Tensor], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    while True:
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            path, arguments, settings = connection.recv()
        except EOFError:
            return
        try:
            result: Any = read(path, *arguments, **settings).numpy()
        except Exception as error:  # noqa: BLE001  (raised again in the parent)
            result = error
        connection.send(result)


class Whereabouts:
    """Which clip each data worker is at: (process id, number of the clip) in shared memory."""

    def __init__(self, num_workers: int) -> None:
        self._notes = torch.full((num_workers, 2), -1, dtype=torch.int64)
        self._notes.share_memory_()  # type: ignore[no-untyped-call]

    def note(self, worker: int, clip: int) -> None:
        """Called in a worker before it reads `clip`."""
        self._notes[worker, 0] = os.getpid()
        self._notes[worker, 1] = clip

    def clips_of(self, pids: Sequence[int]) -> list[int]:
        """Clips that the processes with these ids were at."""
        return [clip for pid, clip in self._notes.tolist() if pid in pids and clip >= 0]


@contextmanager
def naming_killed_workers(whereabouts: Whereabouts, paths: Sequence[str]) -> Iterator[None]:
    """Around a loop over a data loader: a worker that dies is reported with its clip.

    Raises:
        WorkerKilledError: in place of the data loader's error.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([0-9, ]+)\)", str(error))
        if found is None:
            raise
        pids = [int(pid) for pid in found.group(1).split(",")]
        clips = whereabouts.clips_of(pids)
        raise WorkerKilledError(killed_sentence([paths[clip] for clip in clips])) from error


def killed_sentence(paths: Sequence[str]) -> str:
    """For people."""
    where = f" at {' and '.join(paths)}" if paths else " before its first clip"
    return (
        f"a process that reads clips was killed or crashed{where}. Usually the memory was full: "
        "use fewer --num_workers or a smaller --batch_size; else that file crashes the decoder: "
        "leave it out"
    )
