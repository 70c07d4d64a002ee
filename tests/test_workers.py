"""A process that dies or hangs costs its own task; all the others are done."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from stadapter.workers import Alive, Lost, run_supervised


def act(task: str, alive: Alive) -> str:
    """In a worker process."""
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "raises":
        raise ZeroDivisionError("no")
    if task == "ends":
        os._exit(3)
    if task == "hangs":
        time.sleep(3600)
    if task == "slow but alive":
        for _ in range(8):
            time.sleep(0.25)
            alive()
    return task.upper()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_what_befalls_one_task_befalls_no_other(num_workers: int) -> None:
    tasks = ["a", "killed", "b", "hangs", "raises", "slow but alive", "ends", "c"]
    outcomes = dict(run_supervised(act, tasks, num_workers=num_workers, timeout_seconds=1.2))
    lost = {task: outcome for task, outcome in outcomes.items() if isinstance(outcome, Lost)}
    done = {task: outcome for task, outcome in outcomes.items() if not isinstance(outcome, Lost)}
    assert done == {task: task.upper() for task in ("a", "b", "c", "slow but alive")}
    assert {task: one.kind for task, one in lost.items()} == {
        "killed": "killed",
        "ends": "killed",
        "hangs": "timed_out",
        "raises": "failed",
    }
    assert "signal 9" in lost["killed"].detail
    assert "no progress for 1.2 seconds" in lost["hangs"].detail
    assert "exit code 3" in lost["ends"].detail
    assert lost["raises"].detail == "ZeroDivisionError: no"


def test_tasks_are_drawn_as_processes_become_free() -> None:
    drawn = []

    def tasks() -> Iterator[str]:
        for task in "abcd":
            drawn.append(task)
            yield task

    running = run_supervised(act, tasks(), num_workers=1, timeout_seconds=60)
    assert next(running) == ("a", "A")
    assert drawn == ["a"]
    running.close()  # ends the process
    assert drawn == ["a"]


def test_no_tasks_no_processes() -> None:
    assert list(run_supervised(act, [], num_workers=2, timeout_seconds=60)) == []


class Unreadable:
    """What a new process cannot receive."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (7,)


def test_processes_that_cannot_start_are_no_fault_of_the_tasks() -> None:
    running = run_supervised(act, [Unreadable()], num_workers=1, timeout_seconds=60)  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="exit code 7"):
        list(running)
