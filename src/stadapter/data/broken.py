"""Clips that cannot be read: what was done about each, how many are allowed, and their list."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stadapter.atomic import write_text

OnBroken = Literal["skip", "salvage", "fail"]
Action = Literal["skipped", "salvaged"]

COLUMNS = ("path", "split", "reason", "action")
"""Of broken.csv."""


@dataclass(frozen=True)
class BrokenClip:
    """A clip that could not be read, or only up to some damage."""

    clip: int
    """Its number in the table."""
    path: str
    """Its file."""
    reason: str
    """Why."""
    action: Action = "skipped"
    """Whether it was left out, or sampled from what can be read."""


def merge_broken(known: dict[int, BrokenClip], more: Iterable[BrokenClip]) -> None:
    """Note clips by number. The first reason stays, but left out outweighs salvaged."""
    for clip in more:
        before = known.get(clip.clip)
        if before is None or (before.action, clip.action) == ("salvaged", "skipped"):
            known[clip.clip] = clip


def skipped(broken: Iterable[BrokenClip]) -> list[BrokenClip]:
    """Those that were left out."""
    return [clip for clip in broken if clip.action == "skipped"]


def count_by_reason(broken: Iterable[BrokenClip]) -> dict[str, int]:
    """ "ACTION: REASON" -> number of clips, most frequent first; numbers in reasons become N."""
    reasons = (f"{b.action}: {re.sub(r'[0-9]+([.,][0-9]+)*', 'N', b.reason)}" for b in broken)
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class BrokenLimit:
    """How much of a collection may be unreadable before a run stops."""

    num_clips: int
    max_broken: float
    on_broken: OnBroken = "skip"

    def check(self, broken: Iterable[BrokenClip]) -> None:
        """Stop the run when too many clips are left out; salvaged ones do not count.

        Raises:
            TooManyBrokenError: with the list of them.
        """
        missing = skipped(broken)
        allowed = 0 if self.on_broken == "fail" else self.max_broken * self.num_clips
        if len(missing) > allowed:
            raise TooManyBrokenError(missing, self)


class TooManyBrokenError(RuntimeError):
    """More clips than allowed could not be read; `broken` lists them."""

    def __init__(self, broken: list[BrokenClip], limit: BrokenLimit) -> None:
        self.broken = broken
        listed = "".join(f"\n  - {clip.path}: {clip.reason}" for clip in broken[:50])
        more = f"\n  ... and {len(broken) - 50} more" if len(broken) > 50 else ""
        allowed = (
            "and --on_broken fail allows none"
            if limit.on_broken == "fail"
            else f"more than the {limit.max_broken:.1%} that --max_broken allows"
        )
        super().__init__(
            f"{len(broken)} of {limit.num_clips} clips could not be read, {allowed}:{listed}{more}"
        )


def write_broken(path: Path, split: str, broken: Iterable[BrokenClip]) -> None:
    """Write `path` (broken.csv) atomically: these clips of `split`, and its rows of other splits.

    Rows are in order of split and clip. A file that is no such list is replaced.
    """
    rows: list[tuple[str, ...]] = [row for row in _read(path) if row[1] != split]
    rows += [
        (clip.path, split, clip.reason, clip.action)
        for clip in sorted(broken, key=lambda clip: clip.clip)
    ]
    rows.sort(key=lambda row: row[1])  # stable: clips stay in order
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    write_text(path, text.getvalue())


def _read(path: Path) -> Sequence[tuple[str, ...]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="", errors="replace") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    if rows[:1] != [COLUMNS]:
        return []
    return [row for row in rows[1:] if len(row) == len(COLUMNS)]
