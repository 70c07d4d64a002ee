"""The progress bar of everything that may take more than two seconds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
"""Bars and notes go to stderr, so that stdout holds results alone; of several processes that
`torchrun` started, the first one speaks."""


class Bar:
    """One bar; `advance` moves it, `describe` changes the text before it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: int = 1) -> None:
        """Add `count` finished items."""
        self._progress.advance(self._task, count)

    def advance_to(self, completed: int, total: int) -> None:
        """Set how many of `total` items are finished."""
        self._progress.update(self._task, completed=completed, total=total)

    def describe(self, text: str) -> None:
        """Change the text before the bar."""
        self._progress.update(self._task, description=text)


@contextmanager
def progress_bar(text: str, total: int, *, completed: int = 0) -> Iterator[Bar]:
    """A bar on a terminal; elsewhere (a log file) nothing but the notes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(text, total=total, completed=completed))
