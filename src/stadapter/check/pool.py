"""Processes that can be lost: one that dies or hangs costs the item it had and nothing else."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """No result, because the process that worked on the item was lost."""

    kind: str
    """"killed", "timed_out", or "failed" (the function raised)."""
    detail: str
    """What happened, for people."""


def run_apart(
    function: Callable[[str], Result],
    items: Sequence[str],
    *,
    num_workers: int,
    timeout_seconds: float,
) -> Iterator[tuple[str, Result | Lost]]:
    """Yield (item, function(item) or Lost) as they come, from `num_workers` fresh processes.

    Args:
        function: importable by name; an item for which it raises is lost as well.
        items: what to work on.
        num_workers: processes, at least 1.
        timeout_seconds: time for one item, after which its process is killed.

    Raises:
        RuntimeError: the processes cannot start.
    """
    waiting = list(reversed(items))
    workers = [_Worker(function) for _ in range(min(num_workers, len(waiting)))]
    try:
        while waiting or any(worker.item is not None for worker in workers):
            for i, worker in enumerate(workers):
                if worker.finished and waiting:
                    workers[i] = _Worker(function)
                elif worker.idle and waiting:
                    worker.give(waiting.pop(), timeout_seconds)
            alive = [worker for worker in workers if not worker.finished]
            ready = wait([worker.pipe for worker in alive], timeout=_patience(alive))
            for worker in alive:
                item = worker.item
                outcome = worker.take() if worker.pipe in ready else worker.check_clock()
                if outcome is not None and item is not None:
                    yield item, outcome.result
    finally:
        for worker in workers:
            worker.stop()


def _patience(workers: "Sequence[_Worker[Any]]") -> float:
    deadline = min((w.deadline for w in workers if w.item is not None), default=None)
    return 1.0 if deadline is None else max(0.0, deadline - time.monotonic())


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    result: Result | Lost


class _Worker(Generic[Result]):
    """One process with the item that it works on, if any."""

    def __init__(self, function: Callable[[str], Result]) -> None:
        # Spawned: FFmpeg's and torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(function, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # else the end of the process would not be seen
        self.idle = False
        self.finished = False
        self._started = False
        self.item: str | None = None
        self.deadline = 0.0
        self._limit = 0.0

    def give(self, item: str, timeout_seconds: float) -> None:
        """Send the next item."""
        self.item, self.idle, self._limit = item, False, timeout_seconds
        self.deadline = time.monotonic() + timeout_seconds
        with suppress(OSError):  # it is gone: `take` will find the pipe closed
            self.pipe.send(item)

    def take(self) -> _Outcome[Result] | None:
        """Receive a result; None is the word that the process has started."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            code = self._process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            if not self._started:
                raise RuntimeError(f"a checking process ended before it began ({how})") from error
            item, self.item, self.idle = self.item, None, False
            if item is None:  # killed while it had nothing to do
                return None
            return _Outcome(Lost("killed", f"the decoding process was killed ({how})"))
        self.item, self.idle, self._started = None, True, True
        if kind == "failed":
            return _Outcome(Lost("failed", value))
        return _Outcome(value) if kind == "done" else None

    def check_clock(self) -> _Outcome[Result] | None:
        """Kill the process if its time is over."""
        if self.item is None or time.monotonic() < self.deadline:
            return None
        self.stop()
        self.item, self.idle = None, False
        return _Outcome(Lost("timed_out", f"not decoded within {self._limit:g} seconds"))

    def stop(self) -> None:
        """End the process at once."""
        if not self.finished:
            self.finished = True
            self._process.kill()
            self._process.join()
            self.pipe.close()


def _serve(function: Callable[[str], Any], pipe: "Connection[Any, Any]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        pipe.send(("started", None))
        while True:
            item = pipe.recv()
            try:
                message = ("done", function(item))
            except Exception as error:  # noqa: BLE001 - the parent reports it with the item
                message = ("failed", f"{type(error).__name__}: {error}")
            pipe.send(message)
    except (EOFError, OSError):
        return  # the parent is gone
