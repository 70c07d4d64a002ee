"""The file that `prepare` writes: H.264 in MP4 with many key frames.

Frames become RGB exactly as `VideoReader` shows them (rotation applied, whatever the pixel format),
scaled in the same step, and are encoded as yuv420p.

Between two pictures that others refer to stand three B-frames that none refers to: a reader that
leaves these out decodes 3 pictures for a frame instead of 4.5 (on average, key frames 8 apart).

One thread, no dates, no encoder version in the container: equal input gives equal bytes with the
same PyAV.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from stadapter.prepare.config import PrepareConfig
from stadapter.prepare.source import Source, UnusableError, reason_of

_BT601 = 5
"""FFmpeg's number of the colour matrix that readers assume where none is written."""
_MANY = 100
"""A constant rate may repeat each frame so often on average; with more the times are wrong."""


def write_mp4(path: Path, video: Source, settings: PrepareConfig) -> int:
    """Write the clip as MP4; returns the number of frames."""
    num_frames = 0
    if settings.fps is None:
        time_base, rate, timed = video.time_base, video.rate, video.frames()
        if time_base.denominator > 1_000_000:  # more than the container can say
            time_base, timed = _in_ticks_of(Fraction(1, 90_000), video)
    else:
        rate = Fraction(str(settings.fps)).limit_denominator(10_000)
        time_base, timed = 1 / rate, _at_rate(rate, video)
    pictures = _pictures(timed, video, settings.short_side)
    first = next(pictures, None)
    if first is None:
        raise UnusableError(video.damage or "no frame could be decoded")
    try:
        with _Mp4(path, first[1].shape, time_base, rate, video.pixel_aspect, settings) as output:
            for tick, picture in _chain(first, pictures):
                output.add(tick, picture)
                num_frames += 1
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise UnusableError(reason_of("cannot be encoded", error)) from error
    return num_frames


def _chain(first: tuple[int, Any], rest: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    yield first
    yield from rest


class _Mp4:
    """The output while it is written."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        time_base: Fraction,
        rate: Fraction,
        pixel_aspect: Fraction | None,
        settings: PrepareConfig,
    ) -> None:
        interval = settings.keyframe_interval
        structure = (
            f"keyint={interval}:min-keyint=1:scenecut=0:open-gop=0"
            ":bframes=3:b-adapt=0:b-pyramid=none"
        )
        options = {
            "preset": settings.preset,
            "tune": "fastdecode",
            "crf": str(settings.crf),
            "x264-params": f"{structure}:threads=1:lookahead-threads=1",
        }
        # "bitexact": no encoder version in the header; "faststart": the index comes first.
        muxing = {"fflags": "+bitexact", "movflags": "+faststart"}
        self._container = av.open(f"file:{path}", "w", format="mp4", options=muxing)
        stream: Any = self._container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_range = 1  # 16 to 235
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        self._stream = stream
        self._time_base = time_base
        self._reformatter = VideoReformatter()

    def __enter__(self) -> "_Mp4":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def add(self, tick: int, picture: NDArray[np.uint8]) -> None:
        """Encode one RGB picture (H, W, 3)."""
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(picture, format="rgb24"),
            format="yuv420p",
            dst_colorspace=_BT601,
            dst_color_range=1,
        )
        frame.pts, frame.time_base = tick, self._time_base
        self._container.mux(self._stream.encode(frame))


def _pictures(
    timed: Iterator[tuple[int, Any]], video: Source, short_side: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Scaled, upright RGB pictures (H, W, 3), all of one size."""
    reformatter = VideoReformatter()
    size = aspect = None
    for tick, frame in timed:
        if size is None:
            aspect = frame.width / frame.height
            size = scaled_size(frame.width, frame.height, short_side)
        elif abs(frame.width / frame.height / aspect - 1) > 0.02:
            video.damage = f"the shape changes to {frame.width} x {frame.height} pixels"
            return
        small = reformatter.reformat(
            frame, width=size[0], height=size[1], format="rgb24", interpolation="BICUBIC"
        )
        quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as in numpy
        video.is_turned = quarter_turns % 2 == 1
        yield tick, np.ascontiguousarray(np.rot90(small.to_ndarray(), quarter_turns))


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even (width, height) with the shorter side at most `short_side`; never larger than before,
    but for a side of one pixel.

        scaled_size(1280, 720, 256) -> (456, 256)        scaled_size(321, 181, 256) -> (320, 180)
    """
    scale = min(1.0, short_side / min(width, height))
    if scale == 1.0:
        return max(2, width - width % 2), max(2, height - height % 2)
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


def _at_rate(rate: Fraction, video: Source) -> Iterator[tuple[int, Any]]:
    """At each k / rate seconds, the frame that is shown then."""
    number, held, end, num_frames = 0, None, Fraction(0), 0
    for tick, frame in video.frames():
        now = tick * video.time_base
        if (now - end) * rate > _MANY * (num_frames + _MANY):
            raise UnusableError(f"its times jump by {float(now - end):.0f} s; leave out --fps")
        while held is not None and number < now * rate:
            yield number, held
            number += 1
        held, end, num_frames = frame, now + 1 / video.rate, num_frames + 1
    while held is not None and (number == 0 or number < end * rate):
        yield number, held
        number += 1


def _in_ticks_of(time_base: Fraction, video: Source) -> tuple[Fraction, Iterator[tuple[int, Any]]]:
    def convert() -> Iterator[tuple[int, Any]]:
        last = -1
        for tick, frame in video.frames():
            last = max(last + 1, round(tick * video.time_base / time_base))
            yield last, frame

    return time_base, convert()
