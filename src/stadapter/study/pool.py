"""Several runs at a time, each in a child process on a device of its own."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from stadapter.device import pick_device
from stadapter.interrupt import Terminated
from stadapter.study.child import Task

_START = "from stadapter.study.child import main; main()"
_POLL_SECONDS = 0.2
_SAVE_SECONDS = 60.0
"""How long an interrupted run may take to save its position."""

K = TypeVar("K")


@dataclass(frozen=True)
class Ended(Generic[K]):
    """How a run ended."""

    key: K
    """What was given with its task."""
    seconds: float
    """Wall time of its process."""
    reason: str | None
    """Why it failed, in a sentence; None if it did not."""


@dataclass
class _Child(Generic[K]):
    key: K
    process: "subprocess.Popen[bytes]"
    log: Path
    begun: float
    slot: int


def num_slots(device: str, wanted: int | None) -> int:
    """Runs at a time: as many as wanted, or one for each GPU, or one."""
    if wanted is not None:
        return wanted
    return max(1, len(_gpus())) if pick_device(device).type == "cuda" else 1


def run_tasks(
    tasks: Iterable[tuple[K, Task, Path]], *, device: str, num_processes: int, lock: int
) -> Iterator[Ended[K]]:
    """Train each task in a child, `num_processes` at a time; yields runs as they end.

    Args:
        tasks: key, task, and the file for what the child prints.
        device: of the recipes. On "cuda" (or "auto" with GPUs) slots take the GPUs in turn; on a
            CPU they share the cores.
        num_processes: runs at a time.
        lock: file descriptor that children keep open as long as they live.

    Ctrl-C and SIGTERM are passed on, so that runs save their position.
    """
    remaining = iter(tasks)
    children: list[_Child[K]] = []
    free = list(range(num_processes))
    on_gpu = pick_device(device).type == "cuda"
    try:
        while True:
            while free and (task := next(remaining, None)) is not None:
                children.append(
                    _start(*task, slot=free.pop(0), count=num_processes, on_gpu=on_gpu, lock=lock)
                )
            if not children:
                return
            time.sleep(_POLL_SECONDS)
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                free.append(child.slot)
                _close(child)
                yield Ended(child.key, time.monotonic() - child.begun, _reason(child))
    except (KeyboardInterrupt, Terminated):
        _interrupt(children)
        raise
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()
            _close(child)


def _start(
    key: K, task: Task, log: Path, *, slot: int, count: int, on_gpu: bool, lock: int
) -> _Child[K]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | _shares(slot, count, on_gpu=on_gpu),
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C comes from here, once
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; the loop finds out how
        process.stdin.write(pickle.dumps(task))
        process.stdin.flush()  # and it stays open: see `child`
    return _Child(key, process, log, time.monotonic(), slot)


def _close(child: _Child[K]) -> None:
    """Give back the pipe of a child that has ended."""
    assert child.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended before it had read its task
        child.process.stdin.close()


def _shares(slot: int, count: int, *, on_gpu: bool) -> dict[str, str]:
    """Environment that gives a slot its GPU, or its part of the cores."""
    if on_gpu:
        gpus = _gpus()
        return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}
    return {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given:
        return [name for name in given.split(",") if name]
    return [str(i) for i in range(torch.cuda.device_count())]


def _reason(child: _Child[K]) -> str | None:
    code = child.process.returncode
    if code == 0:
        return None
    if code < 0:
        return f"killed by signal {-code}" + (" (9 may mean: out of memory)" if code == -9 else "")
    text = child.log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with exit code {code}"


def _interrupt(children: list[_Child[K]]) -> None:
    """Let every run save its position."""
    for child in children:
        child.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + _SAVE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
