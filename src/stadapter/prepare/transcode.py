"""One video -> one small H.264 file with many key frames, or the reason why not.

Frames become RGB exactly as `VideoReader` shows them (rotation applied, whatever the pixel format),
scaled in the same step, and are encoded as yuv420p. Every frame of the source is one frame of the
output with the same time, so that a sampler which counts frames chooses the same moments of both;
a set frame rate changes that.

Between two pictures that others refer to stand three B-frames that none refers to: a reader that
leaves these out decodes 3 pictures for a frame instead of 4.5 (on average, key frames 8 apart).

Damage ends a file: an error or a frame marked as corrupt, a header that promises more than there
is, a changed aspect. What decoded before it is kept if it is enough. `err_detect=explode` makes
FFmpeg report errors which it would otherwise paint over.

One thread, no dates, no encoder version in the container: equal input gives equal bytes with the
same PyAV.
"""

import contextlib
import hashlib
import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from stadapter.atomic import atomic_path

Status = Literal["prepared", "salvaged", "failed", "unfinished"]

PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)

_BT601 = 5
"""FFmpeg's number of the colour matrix that readers assume where none is written."""
_SEEK_SECONDS = 2.0
"""A clip that begins earlier is read from the file's beginning."""
_FRAME_PER_PACKET = frozenset({"av1", "h264", "hevc", "libdav1d", "vp9"})
"""Codecs of which every packet gives a frame, so that a lost one is noticed."""
_MANY = 100
"""A constant rate may repeat each frame so often on average; with more the times are wrong."""


@dataclass(frozen=True)
class PrepareConfig:
    """How files are transcoded. Equal settings give equal files."""

    short_side: int = 256
    """Shorter side of the output in pixels, even; smaller videos keep their size."""
    keyframe_interval: int = 8
    """Frames from one key frame to the next: at most so many are decoded to show one."""
    fps: float | None = None
    """Constant frames per second; None keeps every frame and its time."""
    crf: int = 23
    """x264's quality, 1 (finest) to 51 (coarsest)."""
    preset: str = "fast"
    """x264's effort, ultrafast to veryslow."""
    min_share: float = 0.5
    """A damaged clip is kept if this share of it, 0 to 1, comes before the damage."""

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise ValueError(f"short_side ({self.short_side}) must be even and at least 16")
        if self.keyframe_interval < 1:
            raise ValueError(f"keyframe_interval ({self.keyframe_interval}) must be at least 1")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps ({self.fps}) must be above 0 and at most 1000")
        if not 1 <= self.crf <= 51:
            raise ValueError(f"crf ({self.crf}) must be from 1 to 51")
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} must be one of {', '.join(PRESETS)}")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share ({self.min_share}) must be from 0 to 1")


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
    settings: PrepareConfig = PrepareConfig(),
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    alive: Callable[[], None] = lambda: None,
) -> PreparedFile:
    """Transcode a video, or the part of it from `start_seconds` to before `end_seconds`.

    Args:
        source: the video, which is only read; a path through a tar shard also works.
        target: the MP4 to write, whole or not at all; its folder must exist.
        settings: how.
        start_seconds: time of the clip's begin after the first frame; None or nan: the beginning.
        end_seconds: time of its end; None or nan: the end.
        alive: called about once per packet.

    Raises:
        OSError: the target cannot be written. What is wrong with the source is in the result.
        ValueError: an end that is not after the start.
    """
    span = _span(start_seconds, end_seconds)
    target = Path(target)
    try:
        with _Source(str(source), span, alive) as video, atomic_path(target) as temporary:
            num_frames = _encode(temporary, video, settings)
            reason = video.damage or ""
            if reason:
                share = min(1.0, video.num_seen / max(1, video.count_expected()))
                if share < settings.min_share:
                    raise _UnusableError(f"{reason}; only {share:.0%} of the clip comes before it")
            facts = _describe(temporary, num_frames)
    except _UnreachableError as error:
        return PreparedFile("unfinished", error.reason)
    except _UnusableError as error:
        return PreparedFile("failed", error.reason)
    return PreparedFile("salvaged" if reason else "prepared", reason, **facts)


class _UnusableError(Exception):
    """The source is at fault."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class _UnreachableError(_UnusableError):
    """The source cannot be read now: missing, forbidden, a disk or network error."""


def _span(start: float | None, end: float | None) -> tuple[float, float]:
    begin = 0.0 if start is None or math.isnan(start) else float(start)
    stop = math.inf if end is None or math.isnan(end) else float(end)
    if stop <= begin:
        raise ValueError(f"end_seconds ({stop:g}) must be after start_seconds ({begin:g})")
    return begin, stop


# -- reading ---------------------------------------------------------------------------------------


class _Source:
    """Frames of a clip in presentation order with their times; ends at the first damage."""

    def __init__(self, path: str, span: tuple[float, float], alive: Callable[[], None]) -> None:
        self.path = path
        self.start, self.end = span
        self._alive = alive
        self.damage: str | None = None
        """What ended the frames before the clip's end."""
        self.num_seen = 0
        """Frames of the clip so far."""
        self._origin = 0
        """Presentation time of the video's first frame, in ticks."""
        self._reached = 0.0
        """End of the last frame, seconds after the video's first."""
        self.is_turned = False
        """Whether the frames are to be turned by a quarter."""
        self._open()

    def __enter__(self) -> "_Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container = _open_container(self.path)
        try:
            self._stream = _pick_stream(self._container)
        except BaseException:
            self._container.close()
            raise
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = rate if rate and 1 <= rate <= 1000 else Fraction(25)
        """Frames per second that the container states; 25 if it says nothing sensible."""
        self.time_base: Fraction = self._stream.time_base
        self._num_packets, self._seeked = 0, False

    @property
    def pixel_aspect(self) -> Fraction | None:
        """Width to height of a pixel, where it is not square."""
        aspect: Fraction | None = self._stream.sample_aspect_ratio
        if not aspect or aspect == 1 or not 0.1 < aspect < 10:
            return None
        return 1 / aspect if self.is_turned else aspect

    def frames(self) -> Iterator[tuple[int, Any]]:
        """(ticks after the clip's first frame, decoded frame), strictly increasing."""
        first = None
        for tick, frame in self._clip():
            first = tick if first is None else first
            self.num_seen += 1
            yield tick - first, frame
        if self.num_seen == 0 and self.damage is None:
            raise _UnusableError("no frame could be decoded")

    def _clip(self) -> Iterator[tuple[int, Any]]:
        """Frames of the span; where none begins in it, the one that is shown at its start."""
        shown = None
        for tick, frame in self._from_near_the_start():
            seconds = self._seconds(tick)
            if seconds >= self.end:
                if shown is not None:
                    yield shown
                return
            if seconds < self.start:
                shown = tick, frame
                continue
            shown = None
            yield tick, frame
        if shown is not None and self.damage is None:
            last = self._seconds(shown[0])
            raise _UnusableError(
                f"the clip begins at {self.start:g} s, but the video's last frame is at {last:g} s"
            )

    def _seconds(self, tick: int) -> float:
        return tick * self.time_base.numerator / self.time_base.denominator

    def _from_near_the_start(self) -> Iterator[tuple[int, Any]]:
        """(ticks after the video's first frame, frame), from a key frame at or before the start."""
        if self.start < _SEEK_SECONDS or self._times_are_guessed():
            yield from self._ticking()
            return
        if next(self._ticking(), None) is None:  # which also sets the origin
            return
        if self._seek(self._origin + int(self.start / self.time_base)):
            frames = self._ticking()
            first = next(frames, None)
            if first is not None and self._seconds(first[0]) <= self.start:
                yield first
                yield from frames
                return
        # The container's index leads astray: read from the beginning.
        self.damage = None
        self._container.close()
        self._open()
        yield from self._ticking()

    def _seek(self, pts: int) -> bool:
        try:
            self._container.seek(pts, stream=self._stream)
        except av.FFmpegError:
            return False
        self._seeked = True
        return True

    def _times_are_guessed(self) -> bool:
        """AVI and ASF have no presentation times; FFmpeg's guess for reordered frames is wrong."""
        codec: str = self._stream.codec_context.name
        return self._container.format.name in ("avi", "asf") and codec in ("h264", "hevc")

    def _ticking(self) -> Iterator[tuple[int, Any]]:
        """Frames with times that always increase; where the file's do not, by a frame's length."""
        step = max(1, round(1 / (self.rate * self.time_base)))
        guessed = self._times_are_guessed()
        shift, last = 0, None
        for frame in self._decode():
            if last is None:
                if not self._seeked:
                    self._origin = 0 if guessed else frame.pts or 0
                tick = 0 if guessed or frame.pts is None else frame.pts - self._origin
            elif guessed or frame.pts is None:
                tick = last + step
            else:
                tick = frame.pts - self._origin + shift
                if tick <= last:
                    shift += last + step - tick
                    tick = last + step
            last = tick
            self._reached = self._seconds(tick + step)
            yield tick, frame

    def _decode(self) -> Iterator[Any]:
        """Frames from the first key frame on, without those that refer to what lies before it."""
        key_pts, leading = None, True
        number = 0
        codec = self._stream.codec_context.name
        lost = _LostPictures(codec in _FRAME_PER_PACKET and not self._times_are_guessed())
        hole = self._first_hole()
        try:
            for packet in self._container.demux(self._stream):
                self._alive()
                if hole is not None and (packet.pos or 0) > hole:
                    self.damage = f"damaged container (no Matroska element at byte {hole})"
                    return
                if packet.size:
                    self._num_packets += 1
                    if key_pts is None:
                        if not packet.is_keyframe:
                            continue
                        key_pts = -math.inf if packet.pts is None else packet.pts
                    elif packet.is_keyframe:
                        leading = False
                    elif leading and packet.pts is not None and packet.pts < key_pts:
                        continue
                    lost.expect(packet)
                for frame in packet.decode():
                    if frame.is_corrupt or lost.before(frame):
                        self.damage = f"frame {number} is damaged or lost"
                        return
                    number += 1
                    yield frame
        except (av.FFmpegError, OSError) as error:
            fault = _fault(self.path, f"cannot be decoded after {number} frames", error)
            if isinstance(fault, _UnreachableError):
                raise fault from error
            self.damage = fault.reason
            return
        self._check_complete()

    def _first_hole(self) -> int | None:
        """Byte of a Matroska file at which FFmpeg leaps to what it understands next, silently."""
        if not self._container.format.name.startswith("matroska"):
            return None
        from stadapter.data.matroska import first_damage  # only here: `data` imports torch

        with _open_in_shard(self.path) or Path(self.path).open("rb") as file:
            return first_damage(file)

    def _check_complete(self) -> None:
        """Note a file that ends early, for the containers whose headers can be believed."""
        name, declared = self._container.format.name, self._stream.frames
        # An AVI may count frames that repeat the one before and are empty.
        least = {"mov": declared, "avi": 0.9 * declared}.get(name.partition(",")[0], 0)
        if self._num_packets < least and not self._seeked:
            self.damage = f"truncated: {self._num_packets} of {declared} declared frames are there"
        wanted = min(self.end, self._declared_seconds())
        if not name.startswith(("mov", "matroska")) or wanted <= self.start:
            return
        enough = self.start + 0.9 * (wanted - self.start)
        # Another stream may be longer than the pictures.
        if self._reached < enough and self._last_packet_seconds() < enough:
            self.damage = (
                f"truncated: {self._reached:.1f} of {wanted:.1f} declared seconds are there"
            )

    def _declared_seconds(self) -> float:
        if self._stream.duration:
            return float(self._stream.duration * self.time_base)
        return (self._container.duration or 0) / float(av.time_base)

    def _last_packet_seconds(self) -> float:
        with _open_container(self.path) as container:
            times = [
                float((packet.pts + (packet.duration or 0)) * packet.time_base)
                for packet in container.demux()
                if packet.pts is not None and packet.time_base is not None
            ]
        return max(times, default=0.0)

    def count_expected(self) -> int:
        """Frames that the clip would have without damage, as far as the file tells."""
        total: int = self._stream.frames or round(self._declared_seconds() * self.rate)
        with (
            contextlib.suppress(av.FFmpegError, OSError, _UnusableError),  # it is damaged
            _open_container(self.path) as container,
        ):
            packets = container.demux(_pick_stream(container))
            total = max(total, sum(packet.size > 0 for packet in packets))
        until = total if math.isinf(self.end) else min(total, round(self.end * self.rate))
        return until - round(self.start * self.rate)


class _LostPictures:
    """Notices packets whose picture does not come out of the decoder, which may say nothing."""

    def __init__(self, can_tell: bool) -> None:
        self._due: list[int] | None = [] if can_tell else None
        self._num_frames = 0

    def expect(self, packet: Any) -> None:
        if self._due is not None and packet.pts is not None and not packet.is_discard:
            heapq.heappush(self._due, packet.pts)

    def before(self, frame: Any) -> bool:
        """Whether a picture that belongs before `frame` has not come."""
        if self._due is None or frame.pts is None:
            return False
        self._num_frames += 1
        missing = False
        while self._due and self._due[0] <= frame.pts:
            missing |= heapq.heappop(self._due) < frame.pts
        if missing and self._num_frames <= 2:  # a packet per field, two of them make a frame
            self._due = None
            return False
        return missing


def _open_container(path: str) -> Any:
    """The opened file; the errors of FFmpeg and of the system become ours."""
    file = Path(path)
    try:
        if not file.is_file() and (member := _open_in_shard(path)) is not None:
            return av.open(member, metadata_errors="replace")
        if not file.is_file():
            raise _UnreachableError("no such file" if not file.exists() else "not a file")
        if file.stat().st_size == 0:
            raise _UnusableError("the file is empty")
        return av.open(f"file:{path}", metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise _fault(path, "cannot be opened", error) from error


def _open_in_shard(path: str) -> Any:
    from stadapter.data.shards import open_member  # only here: `data` imports torch

    return open_member(path)


def _fault(path: str, what: str, error: Exception) -> _UnusableError:
    """Whose fault an error is. FFmpeg says "input/output error" also of damaged content."""
    reason = _reason(what, error)
    try:
        with Path(path).open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return _UnreachableError(reason)
    return _UnusableError(reason)


def _pick_stream(container: Any) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # a cover image is no video
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            return stream
    raise _UnusableError("no video stream")


# -- writing ---------------------------------------------------------------------------------------


def _encode(path: Path, video: _Source, settings: PrepareConfig) -> int:
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
        raise _UnusableError(video.damage or "no frame could be decoded")
    try:
        with _Mp4(path, first[1].shape, time_base, rate, video.pixel_aspect, settings) as output:
            for tick, picture in _chain(first, pictures):
                output.add(tick, picture)
                num_frames += 1
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise _UnusableError(_reason("cannot be encoded", error)) from error
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
    timed: Iterator[tuple[int, Any]], video: _Source, short_side: int
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


def _at_rate(rate: Fraction, video: _Source) -> Iterator[tuple[int, Any]]:
    """At each k / rate seconds, the frame that is shown then."""
    number, held, end, num_frames = 0, None, Fraction(0), 0
    for tick, frame in video.frames():
        now = tick * video.time_base
        if (now - end) * rate > _MANY * (num_frames + _MANY):
            raise _UnusableError(f"its times jump by {float(now - end):.0f} s; leave out --fps")
        while held is not None and number < now * rate:
            yield number, held
            number += 1
        held, end, num_frames = frame, now + 1 / video.rate, num_frames + 1
    while held is not None and (number == 0 or number < end * rate):
        yield number, held
        number += 1


def _in_ticks_of(time_base: Fraction, video: _Source) -> tuple[Fraction, Iterator[tuple[int, Any]]]:
    def convert() -> Iterator[tuple[int, Any]]:
        last = -1
        for tick, frame in video.frames():
            last = max(last + 1, round(tick * video.time_base / time_base))
            yield last, frame

    return time_base, convert()


def _describe(path: Path, num_frames: int) -> dict[str, Any]:
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


def _reason(what: str, error: Exception) -> str:
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{what} ({detail})"
