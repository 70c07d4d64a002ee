"""Tasks in supervised processes: one that is killed, raises or hangs costs its own task only.

`concurrent.futures` gives up the whole pool when one process dies, and waits for a hung one for
ever. Here each process has its own pipe: it says now and then that it is alive, and a process that
ends or falls silent is replaced. Processes are started afresh ("spawn"), so a script needs the
usual `if __name__ == "__main__"`; when the parent dies they end by themselves.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Alive = Callable[[], None]
"""What a task calls, as often as it likes, to say that it makes progress."""

START_SECONDS = 120.0
"""How long a new process may take to import what it needs."""
_BEAT_SECONDS = 0.5


LostKind = Literal["killed", "timed_out", "failed"]


@dataclass(frozen=True)
class Lost:
    """A task without a result."""

    kind: LostKind
    """"killed" (its process ended), "timed_out" (was silent), or "failed" (the function raised)."""
    detail: str
    """What happened, for people."""


def run_supervised(
    function: Callable[[T, Alive], R],
    tasks: Iterable[T],
    *,
    num_workers: int,
    timeout_seconds: float,
) -> Iterator[tuple[T, R | Lost]]:
    """Yield (task, result or Lost) as tasks finish, in any order.

    Args:
        function: of a module's top level; called in a process as `function(task, alive)`.
        tasks: drawn one by one as processes become free.
        num_workers: number of processes, at least 1.
        timeout_seconds: a process that is silent for longer is killed. A function that never calls
            `alive` thus has so long for each task.

    Raises:
        RuntimeError: a process ended before it began its first task, as all others would.
    """
    remaining = iter(tasks)
    idle: list[_Worker[T, R]] = []
    busy: list[_Worker[T, R]] = []
    try:
        while True:
            while len(busy) < num_workers:
                task = next(remaining, _NONE)
                if task is _NONE:
                    break
                busy.append(_start(function, idle, task))
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=_BEAT_SECONDS)
            for worker in list(busy):
                outcome = worker.poll(timeout_seconds)
                if outcome is None:
                    continue
                busy.remove(worker)
                if isinstance(outcome, Lost):
                    worker.stop()
                    yield worker.task, outcome
                else:
                    idle.append(worker)
                    yield worker.task, outcome[0]
    finally:
        for worker in [*busy, *idle]:
            worker.stop()


_NONE: Any = object()


class _Worker(Generic[T, R]):
    """One process and the task that it is at."""

    def __init__(self, function: Callable[[T, Alive], R]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(function, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process closes the pipe
        self._started = False
        self.task: T

    def give(self, task: T) -> None:
        """Hand over a task; OSError if the process has ended meanwhile."""
        self.task = task
        self._seen = time.monotonic()
        self.connection.send(task)

    def poll(self, timeout_seconds: float) -> tuple[R] | Lost | None:
        """The result in a tuple, or why there will be none, or None: not yet."""
        try:
            while self.connection.poll():
                result: tuple[R] | Lost | None = self.connection.recv()
                self._started, self._seen = True, time.monotonic()
                if result is not None:
                    return result
        except (EOFError, OSError) as error:
            self._process.join()
            end = _end(self._process.exitcode)
            if not self._started:
                raise RuntimeError(
                    f"no work can be done in processes: {end} at its start"
                ) from error
            return Lost("killed", end)
        limit = timeout_seconds if self._started else max(timeout_seconds, START_SECONDS)
        if time.monotonic() - self._seen > limit:
            return Lost("timed_out", f"no progress for {limit:g} seconds; its process was ended")
        return None

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _start(
    function: Callable[[T, Alive], R], idle: "list[_Worker[T, R]]", task: T
) -> "_Worker[T, R]":
    while idle:
        worker = idle.pop()
        try:
            worker.give(task)
        except OSError:  # killed while it had nothing to do
            worker.stop()
        else:
            return worker
    worker = _Worker(function)
    # If it is dead already, `poll` finds out and says how.
    with contextlib.suppress(OSError):
        worker.give(task)
    return worker


def _serve(function: Callable[[T, Alive], R], connection: "Connection[Any, Any]") -> None:
    """The process: tasks in, heartbeats (None) and results (in a tuple, or Lost) out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    last = 0.0

    def alive() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _BEAT_SECONDS:
            last = now
            connection.send(None)

    # Without a parent there is nobody to work for.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = connection.recv()
            alive()
            try:
                outcome: tuple[R] | Lost = (function(task, alive),)
            except Exception as error:  # noqa: BLE001 - the parent reports it with the task
                outcome = Lost("failed", f"{type(error).__name__}: {error}")
            connection.send(outcome)


def _end(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its process was killed by signal {-exitcode} (9 may mean: out of memory)"
    return f"its process ended with exit code {exitcode}"
