"""Frames of a clip as `prepare` reads them, one after the other, up to the first damage.

Damage is an error or a frame marked as corrupt, a header that promises more than there is, a
picture that does not come out. `err_detect=explode` makes FFmpeg report errors which it would
otherwise paint over.
"""

import contextlib
import heapq
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

_SEEK_SECONDS = 2.0
"""A clip that begins earlier is read from the file's beginning."""
_FRAME_PER_PACKET = frozenset({"av1", "h264", "hevc", "libdav1d", "vp9"})
"""Codecs of which every packet gives a frame, so that a lost one is noticed."""


class UnusableError(Exception):
    """The source is at fault."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class UnreachableError(UnusableError):
    """The source cannot be read now: missing, forbidden, a disk or network error."""


class Source:
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

    def __enter__(self) -> "Source":
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
            raise UnusableError("no frame could be decoded")

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
            raise UnusableError(
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
            if isinstance(fault, UnreachableError):
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
            contextlib.suppress(av.FFmpegError, OSError, UnusableError),  # it is damaged
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
            raise UnreachableError("no such file" if not file.exists() else "not a file")
        if file.stat().st_size == 0:
            raise UnusableError("the file is empty")
        return av.open(f"file:{path}", metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise _fault(path, "cannot be opened", error) from error


def _open_in_shard(path: str) -> Any:
    from stadapter.data.shards import open_member  # only here: `data` imports torch

    return open_member(path)


def _fault(path: str, what: str, error: Exception) -> UnusableError:
    """Whose fault an error is. FFmpeg says "input/output error" also of damaged content."""
    reason = reason_of(what, error)
    try:
        with Path(path).open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return UnreachableError(reason)
    return UnusableError(reason)


def _pick_stream(container: Any) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # a cover image is no video
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            return stream
    raise UnusableError("no video stream")


def reason_of(what: str, error: Exception) -> str:
    """What went wrong, and what FFmpeg or the system says of it."""
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{what} ({detail})"
