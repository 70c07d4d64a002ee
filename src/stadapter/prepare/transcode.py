"""One video -> one small H.264 file with many key frames, or the reason why not.

Every frame of the source is one frame of the output with the same time, so that a sampler which
counts frames chooses the same moments of both; a set frame rate changes that. Damage ends a file;
what decoded before it is kept if it is enough.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av

from stadapter.atomic import atomic_path
from stadapter.prepare.config import PrepareConfig
from stadapter.prepare.mp4 import write_mp4
from stadapter.prepare.source import Source, UnreachableError, UnusableError

Status = Literal["prepared", "salvaged", "failed", "unfinished"]


@dataclass(frozen=True)
class PreparedFile:
    """What became of one file; without output all but status and reason are zero."""

    status: Status
    """prepared: whole; salvaged: up to the damage; failed: no use; unfinished: worth another try,
    as the source could not be reached or its process was lost."""
    reason: str = ""
    """Where damage begins, or why there is no output."""
    output_bytes: int = 0
    """Size of the output."""
    sha256: str = ""
    """Checksum of the output."""
    num_frames: int = 0
    """Frames of the output."""
    duration_seconds: float = 0.0
    """From the first frame to the end of the last."""
    fps: float = 0.0
    """Frames per second, on average where the rate varies."""
    width: int = 0
    """Pixels."""
    height: int = 0
    """Pixels."""


def prepare_file(
    source: str | Path,
    target: str | Path,
    settings: PrepareConfig | None = None,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    alive: Callable[[], None] = lambda: None,
) -> PreparedFile:
    """Transcode a video, or the part of it from `start_seconds` to before `end_seconds`.

    Args:
        source: the video, which is only read; a path through a tar shard also works.
        target: the MP4 to write, whole or not at all; its folder must exist.
        settings: how; None: the defaults.
        start_seconds: time of the clip's begin after the first frame; None or nan: the beginning.
        end_seconds: time of its end; None or nan: the end.
        alive: called about once per packet.

    Raises:
        OSError: the target cannot be written. What is wrong with the source is in the result.
        ValueError: an end that is not after the start.
    """
    settings = settings or PrepareConfig()
    span = _span(start_seconds, end_seconds)
    target = Path(target)
    try:
        with Source(str(source), span, alive) as video, atomic_path(target) as temporary:
            num_frames = write_mp4(temporary, video, settings)
            reason = video.damage or ""
            if reason:
                share = min(1.0, video.num_seen / max(1, video.count_expected()))
                if share < settings.min_share:
                    raise UnusableError(f"{reason}; only {share:.0%} of the clip comes before it")
            facts = _facts_of(temporary, num_frames)
    except UnreachableError as error:
        return PreparedFile("unfinished", error.reason)
    except UnusableError as error:
        return PreparedFile("failed", error.reason)
    return PreparedFile("salvaged" if reason else "prepared", reason, **facts)


def _span(start: float | None, end: float | None) -> tuple[float, float]:
    begin = 0.0 if start is None or math.isnan(start) else float(start)
    stop = math.inf if end is None or math.isnan(end) else float(end)
    if stop <= begin:
        raise ValueError(f"end_seconds ({stop:g}) must be after start_seconds ({begin:g})")
    return begin, stop


def _facts_of(path: Path, num_frames: int) -> dict[str, Any]:
    """Facts of the written file, from the file: what the manifest says is there."""
    content = path.read_bytes()
    with av.open(f"file:{path}") as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if len(packets) != num_frames:
            raise RuntimeError(f"{path} has {len(packets)} frames, but {num_frames} were encoded")
        ticks = max((packet.pts or 0) + (packet.duration or 0) for packet in packets)
        duration = float(ticks * stream.time_base) if stream.time_base else 0.0
        return {
            "output_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "num_frames": num_frames,
            "duration_seconds": round(duration, 6),
            "fps": round(num_frames / duration, 6) if duration else 0.0,
            "width": stream.width,
            "height": stream.height,
        }
