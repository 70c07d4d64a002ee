"""Where a run stands between two steps, on disk: the newest state and the one before it.

A state is written beside its place and renamed, and the one before is kept, so that neither a kill
nor a full disk nor a damaged file loses more than the time between two states.
"""

import pickle
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from stadapter.atomic import atomic_path
from stadapter.data import BrokenClip


@dataclass
class State:
    """Where a run stands between two steps."""

    epoch: int = 0
    """Epoch to go on with."""
    step_in_epoch: int = 0
    """Steps of that epoch already done."""
    clips_in_epoch: int = 0
    """Clips of that epoch already taken by them, over all ranks."""
    best: float = -1.0
    """Best validation so far, of the task's headline number."""
    loss_sum: float = 0.0
    """Sum over the steps of this epoch of their losses."""
    loss_count: int = 0
    """Number of those steps."""
    clips: int = 0
    """Clips trained on since the beginning of the run."""
    step_seconds: float = 0.0
    """Wall time of all steps since the beginning of the run."""
    data_seconds: float = 0.0
    """The part of it in which the model waited for clips."""
    log_lines: int = 0
    """Lines of the log up to here."""
    broken: dict[int, BrokenClip] = field(default_factory=dict)
    """Training clips that were skipped or salvaged, by number."""

    def to_dict(self) -> dict[str, Any]:
        """As numbers, texts and lists alone."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "broken"}
        broken = [(b.clip, b.path, b.reason, b.action) for b in self.broken.values()]
        return plain | {"broken": broken}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "State":
        """The inverse of `to_dict`."""
        broken = [BrokenClip(*entry) for entry in content["broken"]]
        return cls(**content | {"broken": {clip.clip: clip for clip in broken}})


def write_state(path: Path, previous: Path, content: dict[str, Any]) -> None:
    """Make `content` the newest state; the one that was newest becomes `previous`.

    Raises:
        OSError: it cannot be written; both are as they were.
    """
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f"new-{path.name}")
    with atomic_path(fresh) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(
                f"{path} cannot be written ({str(error).splitlines()[0]}); is the disk full? The "
                "states that were there are kept"
            ) from error
    if path.exists():
        path.replace(previous)
    fresh.replace(path)


def read_state(path: Path, previous: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state that can be read, and what is wrong with those that cannot.

    None if there is no state at all.

    Raises:
        ValueError: there are states, but none can be read.
    """
    problems: list[str] = []
    for file in (path, previous):
        if not file.is_file():
            continue
        try:
            with zipfile.ZipFile(file) as archive:  # torch.load does not compare checksums
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"checksum of {damaged} differs")
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            problems.append(f"{file} is truncated or damaged: {str(error).splitlines()[0]}")
        else:
            return content, problems
    if problems:
        raise ValueError(f"no state can be resumed: {'; '.join(problems)}")
    return None, []
