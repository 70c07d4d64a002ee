"""How long a clip is, from its window and the header of its file; nothing is decoded."""

import math

import av

from stadapter.data.shards import open_member


def clip_seconds(path: str, start: float | None = None, end: float | None = None) -> float:
    """Duration of a clip in seconds; nan where neither its window nor its file says it.

    Args:
        path: a file that could be read as a video.
        start: of the clip in its file, seconds.
        end: of the clip in its file, seconds.
    """
    if end is not None:
        return end - (start or 0.0)
    try:
        with av.open(open_member(path) or f"file:{path}", metadata_errors="replace") as container:
            ticks = container.duration
    except (av.FFmpegError, OSError):
        return math.nan
    return math.nan if ticks is None else max(0.0, ticks / av.time_base - (start or 0.0))
