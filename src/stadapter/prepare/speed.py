"""How much faster training clips are read from the outputs than from the sources: measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from stadapter.data import SamplingConfig, VideoError, read_clip, sample_test
from stadapter.prepare.manifest import ManifestRow

NUM_FRAMES = 8
NUM_CLIPS = 8
NUM_READS = 3


@dataclass(frozen=True)
class ReadingSpeed:
    """Time to read a training clip, mean over clips."""

    num_clips: int
    source_seconds: float
    output_seconds: float

    def __str__(self) -> str:
        ratio = self.source_seconds / self.output_seconds
        return (
            f"reading {NUM_FRAMES} frames spread over a clip: {self.source_seconds * 1e3:.1f} ms "
            f"from the source, {self.output_seconds * 1e3:.1f} ms prepared, {ratio:.1f}x as fast "
            f"(mean of {self.num_clips} of these clips, the fastest of {NUM_READS} reads each, "
            "one thread, without resizing)"
        )


def measure_reading(out: Path, rows: Sequence[ManifestRow]) -> ReadingSpeed | None:
    """Read clips of a manifest from their sources and from their outputs below `out`, in turn.

    Returns None if no clip of which the whole was prepared can be read from both.
    """
    whole = [row for row in rows if row.file.status == "prepared"]
    pairs = []
    for row in whole[:: max(1, len(whole) // NUM_CLIPS)][:NUM_CLIPS]:
        times: list[tuple[float, float]] = []
        try:
            for _ in range(NUM_READS):
                source = _seconds(row.source, row.start_seconds, row.end_seconds)
                times.append((source, _seconds(str(out / row.output))))
        except VideoError:  # such as what `prepare` forgives and the reader does not
            continue
        pairs.append((min(t for t, _ in times), min(t for _, t in times)))
    if not pairs:
        return None
    return ReadingSpeed(len(pairs), mean(s for s, _ in pairs), mean(o for _, o in pairs))


def _seconds(path: str, start: float | None = None, end: float | None = None) -> float:
    """Time to open a file and read frames spread over the part from `start` to `end`, seconds."""
    begin = time.perf_counter()
    sampling = SamplingConfig(NUM_FRAMES)
    read_clip(path, lambda total: sample_test(total, sampling)[0], start=start, end=end)
    return time.perf_counter() - begin
