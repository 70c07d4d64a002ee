"""One run in a process of its own, which gets its task on its input.

Why a process for each run: a run that is killed, leaks or crashes costs itself only, and its peak
memory is its own. The task's pipe stays open as long as the study lives; when it closes, the child
ends at once, so that nobody trains on in a folder that the next study will write.
"""

import os
import pickle
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from stadapter.data import DataConfig
from stadapter.interrupt import Terminated
from stadapter.recipe import Recipe, train_recipe
from stadapter.run import RunFolder


@dataclass(frozen=True)
class Task:
    """One run to train, or to go on with."""

    recipe: Recipe
    data: str
    reading: DataConfig
    out: Path


def train(task: Task) -> None:
    """From the start, or from where the folder's run stopped."""
    resume = RunFolder(task.out).exists()
    train_recipe(task.recipe, task.data, task.out, reading=task.reading, resume=resume)


def _end_with(pipe: int) -> None:
    """Wait until the other side is gone, and be gone as well."""
    while os.read(pipe, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Read the task, train; one sentence and exit code 1 if it fails."""
    task: Task = pickle.load(sys.stdin.buffer)  # from the study that started this process
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        train(task)
    except (KeyboardInterrupt, Terminated):
        sys.exit("interrupted; what was finished is kept")
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
        sys.exit(str(error))
