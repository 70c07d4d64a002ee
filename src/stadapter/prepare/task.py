"""One clip of a collection in a worker process, which imports this file and thereby no torch."""

from dataclasses import dataclass
from pathlib import Path

from stadapter.prepare.config import PrepareConfig
from stadapter.prepare.manifest import ManifestRow
from stadapter.prepare.transcode import PreparedFile, prepare_file
from stadapter.workers import Alive

VIDEOS = "videos"
"""Folder of the outputs below OUT."""


@dataclass(frozen=True)
class Clip:
    """A part of a file, and the name of its output. Rows of a table that say the same share one."""

    source: str
    """Absolute path."""
    start_seconds: float | None
    """Where it begins; None is the file's beginning."""
    end_seconds: float | None
    """Where it ends; None is the file's end."""
    folder: str
    """Name of the output's folder, after the source's."""
    name: str
    """Name of the output without suffix, no other clip's: the source's, and a hash of all above."""


@dataclass(frozen=True)
class Task:
    """A clip to transcode."""

    clip: Clip
    target: str
    """The file to write; its folder exists."""
    config: PrepareConfig


@dataclass(frozen=True)
class NotWritten:
    """The disk is full, or the folder is gone: no use to go on."""

    reason: str


def do_task(task: Task, alive: Alive) -> ManifestRow | NotWritten:
    """Transcode a clip; says what became of it, or why nothing can be written."""
    clip = task.clip
    before = stamp(clip.source)
    try:
        file = prepare_file(
            clip.source,
            task.target,
            task.config,
            start_seconds=clip.start_seconds,
            end_seconds=clip.end_seconds,
            alive=alive,
        )
    except ValueError as error:
        file = PreparedFile("failed", str(error))
    except OSError as error:
        return NotWritten(error.strerror or str(error))
    if stamp(clip.source) != before:
        file = PreparedFile("unfinished", "the source changed while it was read")
    return manifest_row(clip, before, file)


def manifest_row(clip: Clip, stamp: tuple[int, int], file: PreparedFile) -> ManifestRow:
    """A clip's line; `stamp` is that of its source."""
    return ManifestRow(
        clip.source, *stamp, clip.start_seconds, clip.end_seconds, loose_path(clip), file
    )


def stamp(source: str) -> tuple[int, int]:
    """Size and time of change of a file, or of the tar that holds it; (-1, -1) without one."""
    for path in (Path(source), *Path(source).parents):
        try:
            status = path.stat()
        except OSError:
            continue
        return (-1, -1) if path.is_dir() else (status.st_size, status.st_mtime_ns)
    return -1, -1


def loose_path(clip: Clip) -> str:
    """Where a clip's output is below OUT, before it is packed."""
    return f"{VIDEOS}/{clip.folder}/{clip.name}.mp4"
