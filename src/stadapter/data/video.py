"""Open, seek and decode video files: exactly the frames that are asked for, in presentation order.

The container is read once without decoding: frame n is the packet with the n-th presentation time,
which is exact for variable frame rates and for headers that lie about the count. To read, the
decoder starts at the last key frame before a wanted frame, unless it is already beyond it, and is
emptied after the last packet that is wanted. Pictures of H.264 that no other picture refers to are
left out where they are not wanted: that changes no pixel of the others. Files whose packets carry
no usable times are counted by decoding them.

Packets and frames must correspond. A frame that does not come out, a packet that the container
marks as damaged, a file that is shorter than its header says or whose structure breaks off in the
middle is a `VideoError`, or the place up to which `salvage` reads.

A frame of the file is returned as it should be looked at: rotation metadata is applied.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, dropwhile, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from torch import Tensor

from stadapter.data.matroska import first_damage
from stadapter.data.shards import open_member

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
    | {".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""File names (lower case) that are taken for videos when a folder is searched."""

SALVAGE_SHARE = 0.5
"""A damaged clip is salvaged if at least this share of its seconds lies before the damage."""
KEPT_BYTES = 32 * 2**20
"""Packets of a file are kept from indexing to decoding as long as they are not more than this."""
_FRAME_PER_PACKET = frozenset({"av1", "h264", "hevc", "libdav1d", "vp9"})
"""Codecs of which every packet gives a frame. (VP8 has hidden frames, MPEG-4 packs several.)"""


class VideoError(Exception):
    """A video that cannot be read; `path` says which, `reason` why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(self.path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class _IndexMismatchError(Exception):
    """Packets and decoded frames do not correspond one to one; count by decoding instead."""


@dataclass
class _Run:
    """What is decoded in one go."""

    key: int
    """Presentation time of the key frame that it starts with."""
    first_packet: int
    """Number of the packet with that key frame."""
    wanted: list[int]
    """Presentation times, ascending."""


class VideoReader:
    """Frames of one video stream by number. A context manager; one thread.

    With `start` or `end` the numbers are those of the frames which are shown in that window.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        start: float | None = None,
        end: float | None = None,
        salvage: bool = False,
    ) -> None:
        """Open the file and index its packets.

        Args:
            path: the file.
            start: seconds; frames shown earlier do not count. The first frame of the file is shown
                at 0.
            end: seconds; frames shown then or later do not count.
            salvage: take only the frames before the first damage, found by decoding.

        Raises:
            VideoError: missing, empty, damaged, without a video stream or without frames in the
                window; with `salvage` if less than `SALVAGE_SHARE` of the window can be read.
            ValueError: the window ends before it starts.
        """
        self.path = str(path)
        self._start = 0.0 if start is None else start
        self._end = float("inf") if end is None else end
        if not self._start < self._end:
            raise ValueError(
                f"{self.path}: start ({self._start} s) must be before end ({self._end} s)"
            )
        self._salvage = salvage
        self._frames: list[int] = []  # presentation times or, when counted, numbers in the file
        self._counted = False
        self._times: list[int] = []  # presentation times of all packets, where they are usable
        self._keys: list[tuple[int, int]] = []  # time and number of packets with key frames
        self._packets: list[Any] | None = []  # in the order of the file; None if they are too large
        self._stop: int | None = None  # number of packets before the damage, where it is known
        self._container = self._open()
        try:
            self._stream = self._pick_stream()
            self._index()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._packets = None
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Number of frames in presentation order, of the window."""
        return len(self._frames)

    @property
    def fps(self) -> float | None:
        """Average frames per second as the container states it, if it does."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    def read(self, indices: Sequence[int]) -> Tensor:
        """The frames with these numbers (repeats allowed), RGB: uint8 (T, C, H, W).

        In memory the channels of a pixel lie side by side, as decoders give them and as resizing
        takes them fastest (`torch.channels_last`).

        Raises:
            IndexError: a number outside 0..num_frames-1.
            VideoError: one of the frames cannot be decoded, or the way to it leads through damage.
        """
        try:
            return self._read(indices)
        except _IndexMismatchError:
            self.count_by_decoding()
            return self._read(indices)

    def _read(self, indices: Sequence[int]) -> Tensor:
        outside = [i for i in indices if not 0 <= i < self.num_frames]
        if outside:
            raise IndexError(f"frame {outside[0]} is outside 0..{self.num_frames - 1}")
        places: dict[int, list[int]] = {}  # of each frame in the clip
        for place, i in enumerate(indices):
            places.setdefault(self._frames[i], []).append(place)
        # One for all frames: setting up the conversion takes longer than converting a small frame.
        reformatter = VideoReformatter()
        find = self._find_by_count if self._counted else self._find
        clip = np.empty((0, 0, 0, 0), dtype=np.uint8)  # (T, H, W, C)
        found: set[int] = set()
        for name, frame in find(sorted(places)):
            image = _pixels(frame, reformatter)
            if not len(clip):
                clip = np.empty((len(indices), *image.shape), dtype=np.uint8)
            if image.shape != clip.shape[1:]:
                raise VideoError(
                    self.path,
                    "the frame size changes within the video: "
                    f"{clip.shape[1:3]} and {image.shape[:2]} (height, width)",
                )
            for place in places[name]:
                clip[place] = image
            found.add(name)
        if len(found) < len(places):
            raise VideoError(self.path, "it changed while it was read")
        return torch.from_numpy(clip).permute(0, 3, 1, 2)

    # -- opening -------------------------------------------------------------------------------

    def _open(self) -> Any:
        file = Path(self.path)
        try:
            if not file.is_file() and (member := open_member(self.path)) is not None:
                return av.open(member, metadata_errors="replace")  # in a tar shard
            if not file.is_file():
                raise VideoError(self.path, "no such file" if not file.exists() else "not a file")
            if file.stat().st_size == 0:
                raise VideoError(self.path, "the file is empty")
            # A file, whatever its name looks like: "file:" keeps FFmpeg from reading it as a URL,
            # and "strict" text handling of metadata would refuse sound files.
            return av.open(f"file:{self.path}", metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, _reason("cannot be opened", error)) from error

    def _pick_stream(self) -> Any:
        for stream in self._container.streams.video:
            if not stream.disposition & Disposition.attached_pic:  # a cover image is no video
                # One thread: workers already share the cores, and FFmpeg's threads do not survive
                # the fork of a data loader.
                stream.codec_context.thread_count = 1
                return stream
        raise VideoError(self.path, "no video stream")

    def _rewind(self) -> None:
        self._container.close()
        self._container = self._open()
        self._stream = self._pick_stream()

    def _seek(self, pts: int) -> None:
        try:
            self._container.seek(pts, stream=self._stream)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, _reason("cannot be seeked", error)) from error

    # -- the index -----------------------------------------------------------------------------

    def _index(self) -> None:
        """Find the frames of the window by the times of packets or, without those, by decoding."""
        name = self._container.format.name
        self._origin: int | None = self._stream.start_time
        # Where seeking is exact, the rest of a long file need not be read for a short window.
        self._partial = (
            self._is_window
            and not self._salvage
            and name.startswith(("mov", "matroska"))
            and self._origin is not None
        )
        times: list[int | None] = []
        positions: list[int] = []
        marked: list[tuple[int, int | None]] = []  # number and time of damaged packets
        ends: dict[Any, int] = {}  # of each stream, in its own unit
        damage = None
        num_bytes = 0
        try:
            for packet in self._packets_of_window():
                time = packet.pts
                if time is not None:
                    ends[packet.stream] = max(
                        ends.get(packet.stream, 0), time + (packet.duration or 0)
                    )
                if packet.stream is not self._stream or packet.size == 0:  # 0: the end
                    continue
                if packet.is_corrupt:
                    marked.append((len(positions), time))
                number = len(positions)
                positions.append(packet.pos or 0)
                num_bytes += packet.size
                if num_bytes > KEPT_BYTES:
                    self._packets = None
                if self._packets is not None:
                    self._packets.append(packet)
                if packet.is_discard:  # cut away by an edit list: decoded, never shown
                    continue
                times.append(time)
                if packet.is_keyframe and time is not None:
                    self._keys.append((time, number))
        except (av.FFmpegError, OSError) as error:
            damage = _reason("damaged container", error)
        reached = max((float(t * s.time_base) for s, t in ends.items() if s.time_base), default=0.0)
        pts = sorted(t for t in times if t is not None)
        if pts and not self._partial:  # what the container states is not so for AVI
            self._origin = pts[0]
        damage = damage or self._incomplete(positions, reached) or self._marked(marked, positions)
        if marked:
            first = marked[0][0]
            self._stop = first if self._stop is None else min(first, self._stop)
        if damage and not self._salvage:
            raise VideoError(self.path, damage)
        self._keys.sort()
        # AVI and ASF store no presentation times. For codecs that reorder freely FFmpeg guesses
        # them, and differently after a seek.
        guessed = name in ("avi", "asf") and self._stream.codec_context.name in ("h264", "hevc")
        repeated = any(a == b for a, b in pairwise(pts))
        if not (guessed or repeated or len(pts) < len(times)) and self._keys:
            self._times = pts
        if self._salvage or not self._times:
            self.count_by_decoding()
        else:
            self._take_window(self._times, self._seconds(self._times))

    @property
    def _is_window(self) -> bool:
        return self._start > 0 or self._end < float("inf")

    def _packets_of_window(self) -> Iterator[Any]:
        """Packets of all streams, from the last key frame before the window to its end."""
        unit = self._stream.time_base
        self._reached_end = True
        if self._partial:
            assert self._origin is not None
            self._seek(self._origin + int(self._start / unit))
        # In Matroska any stream may be the one that is as long as the header says.
        whole = self._container.format.name.startswith("matroska")
        for packet in self._container.demux(*([] if whole else [self._stream])):
            if self._partial and packet.stream is self._stream and packet.dts is not None:
                # What is decoded after the end is shown after it, too.
                self._reached_end = float((packet.dts - self._origin) * unit) < self._end
                if not self._reached_end:
                    return
            yield packet

    def _incomplete(self, positions: Sequence[int], reached: float) -> str | None:
        """How the file ends early or breaks off, for containers whose headers can be believed."""
        name, declared = self._container.format.name, self._stream.frames
        if name == "avi" and len(positions) < 0.98 * declared - 1:  # may be off by a few
            return f"truncated: {len(positions)} of {declared} declared frames are in the file"
        if not self._reached_end or not name.startswith(("mov", "matroska")):
            return None
        if name.startswith("mov") and not self._partial:
            if len(positions) < declared:
                return f"truncated: {len(positions)} of {declared} declared frames are in the file"
            return None
        wanted = (self._container.duration or 0) / av.time_base
        if name.startswith("matroska"):
            with open_member(self.path) or Path(self.path).open("rb") as file:
                byte = first_damage(file)
            behind = 0 if byte is None else sum(position > byte for position in positions)
            if byte is not None and (behind or reached < 0.99 * wanted):
                # The damage begins inside the last packet before it.
                self._stop = max(0, len(positions) - behind - 1)
                return f"damaged container (no Matroska element at byte {byte})"
        if reached < 0.9 * min(wanted, self._end):
            return f"truncated: {reached:.1f} of {wanted:.1f} declared seconds are in the file"
        return None

    def _marked(
        self, marked: Sequence[tuple[int, int | None]], positions: Sequence[int]
    ) -> str | None:
        """Where a transport stream lost something; its first and last packet may be cut."""
        for number, pts in marked:
            inside = pts is None or self._start <= self._seconds([pts])[0] < self._end
            if inside and 0 < number < len(positions) - 1:
                return f"damaged at {self._at(pts)}"
        return None

    def _seconds(self, pts: Sequence[int]) -> list[float]:
        """When frames with these presentation times are shown; the first of the file at 0."""
        origin = pts[0] if self._origin is None else self._origin
        unit = self._stream.time_base
        return [(t - origin) * unit.numerator / unit.denominator for t in pts]

    def _take_window(self, names: Sequence[int], seconds: Sequence[float]) -> None:
        pairs = zip(names, seconds, strict=True)
        self._frames = [name for name, time in pairs if self._start <= time < self._end]
        if not self._frames:
            raise VideoError(
                self.path,
                f"no frame is shown from {self._start:g} to {self._end:g} s; the last one is shown "
                f"at {seconds[-1]:.3f} s",
            )

    def count_by_decoding(self) -> None:
        """Number the frames by decoding the whole file, where packet times cannot be trusted.

        Raises:
            VideoError: a part of the file cannot be decoded, or nothing in it.
        """
        self._counted = True
        if self._partial:  # then not all packets are known
            self._partial, self._packets = False, None
        pts: list[int | None] = []
        damage = None
        try:
            for frame in self._decode_all(strict=self._salvage):
                pts.append(frame.pts)
        except VideoError as error:
            if not self._salvage:
                raise
            damage = error.reason
        if not pts:
            raise VideoError(self.path, damage or "no frame could be decoded")
        self._check_none_lost(pts)
        seconds = self._seconds_by_count(pts)
        if self._salvage:
            self._check_covered(seconds, damage)
        self._take_window(range(len(pts)), seconds)

    def _check_none_lost(self, pts: Sequence[int | None]) -> None:
        if self._salvage or self._stream.codec_context.name not in _FRAME_PER_PACKET:
            return
        came = set(pts)
        known = [t for t in self._times if pts[0] is not None and t >= pts[0]]
        lost = sum(t not in came for t in known)
        # Two packets for each frame are the two fields of interlaced video.
        if lost and len(pts) > 0.6 * len(known):
            raise VideoError(
                self.path, f"damaged: {lost} of {len(known)} frames do not come out of the decoder"
            )

    def _seconds_by_count(self, pts: Sequence[int | None]) -> list[float]:
        known = [t for t in pts if t is not None]
        if len(known) == len(pts) and all(a < b for a, b in pairwise(known)):
            self._origin = known[0]
            return self._seconds(known)
        if not self.fps and self._is_window:
            raise VideoError(self.path, "its frames have no times, so no window can be taken")
        return [number / (self.fps or 1.0) for number in range(len(pts))]

    def _check_covered(self, seconds: Sequence[float], damage: str | None) -> None:
        """Refuse what is left before the damage if it is too little of the window."""
        if self._stream.frames and self.fps:
            declared = self._stream.frames / self.fps
        elif self._container.duration:
            declared = self._container.duration / av.time_base
        else:
            declared = self._seconds(self._times)[-1] if self._times else seconds[-1]
        between = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else 0.0
        wanted = min(declared, self._end) - self._start
        covered = min(seconds[-1] + between, self._end) - self._start
        if covered < SALVAGE_SHARE * wanted:
            raise VideoError(
                self.path,
                f"{damage or 'truncated'}; only the first {max(0.0, covered):.1f} of {wanted:.1f} "
                "s can be read",
            )

    # -- decoding ------------------------------------------------------------------------------

    def _find(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(presentation time, frame) of each wanted time."""
        for run in self._runs(wanted):
            yield from self._find_in_run(run)

    def _runs(self, wanted: Sequence[int]) -> list[_Run]:
        runs: list[_Run] = []
        key_times = [time for time, _ in self._keys]
        for time in wanted:
            place = max(0, bisect_right(key_times, time) - 1)
            key, number = self._keys[place]
            if runs and key <= runs[-1].wanted[-1]:
                runs[-1].wanted.append(time)
            else:  # what stands before the first key frame may belong to it: edit lists
                runs.append(_Run(key, number if place else 0, [time]))
        return runs

    def _find_in_run(self, run: _Run) -> Iterator[tuple[int, Any]]:
        codec = self._stream.codec_context
        codec.flush_buffers()
        skips = codec.name == "h264"
        ahead = set(run.wanted)  # not yet handed to the decoder
        due: set[int] = set()  # handed to it and not yet come out
        for packet in self._feed(run):
            time = packet.pts
            self._check_sound(packet)
            if skips:
                codec.skip_frame = "DEFAULT" if time in ahead else "NONREF"
            # The key frame must come out. It does not where a stream is refreshed piece by piece:
            # such a packet is marked as a key frame, and pictures soon after it are not whole.
            expected = time in ahead or time == run.key or not skips
            if expected and time is not None and time >= run.key and not packet.is_discard:
                due.add(time)
            ahead.discard(time)
            yield from self._sound_frames(packet, run, due)
            if not ahead:
                break
        # Also where all wanted frames are out: a later one, to which they refer, may be damaged.
        yield from self._sound_frames(None, run, due)
        if ahead or due:
            raise _IndexMismatchError

    def _sound_frames(self, packet: Any, run: _Run, due: set[int]) -> Iterator[tuple[int, Any]]:
        """The wanted frames among those that come out after `packet`; None empties the decoder."""
        for frame in self._decode(packet):
            if frame.pts is None or frame.pts < run.key:
                continue  # belongs to what is before the key frame
            due.discard(frame.pts)
            self._check_sound(frame)
            if frame.pts in run.wanted:
                yield frame.pts, frame

    def _feed(self, run: _Run) -> Iterator[Any]:
        """Packets from the key frame of the run on."""
        if self._packets is not None:
            yield from islice(self._packets, run.first_packet, None)
            return
        if run.first_packet == 0 and not self._partial:
            yield from self._all_packets()
            return
        self._seek(run.key)
        # A seek may land earlier.
        yield from dropwhile(lambda packet: packet.pts != run.key, self._demux())

    def _find_by_count(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(number, frame) of each wanted number."""
        numbers = iter(wanted)
        number = next(numbers, None)
        for place, frame in enumerate(self._decode_all(strict=True)):
            if place == number:
                self._check_sound(frame)
                yield place, frame
                number = next(numbers, None)
                if number is None:
                    return

    def _decode_all(self, *, strict: bool) -> Iterator[Any]:
        """All frames in presentation order; with `strict` damage that is only marked ends them."""
        lossless = self._salvage and self._stream.codec_context.name in _FRAME_PER_PACKET
        times = self._times if lossless else []
        before: int | None = None  # time of the last sound frame
        for packet in chain(islice(self._all_packets(), self._stop), [None]):
            if strict and packet is not None:
                self._check_sound(packet)
            for frame in self._decode(packet):
                # Recordings of a broadcast begin with pictures that cannot be decoded whole.
                if strict and before is not None:
                    self._check_sound(frame)
                    if times and frame.pts != times[bisect_right(times, before)]:
                        raise VideoError(self.path, f"lost pictures before {self._at(frame.pts)}")
                if not frame.is_corrupt:
                    before = frame.pts
                yield frame

    def _all_packets(self) -> Iterator[Any]:
        """Packets from the beginning of the file, for a decoder that is reset."""
        if self._packets is None:
            self._rewind()
            yield from self._demux()
        else:
            self._stream.codec_context.flush_buffers()
            self._stream.codec_context.skip_frame = "DEFAULT"
            yield from self._packets

    def _demux(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, _reason("damaged container", error)) from error

    def _decode(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = self._stream.codec_context.decode(packet)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, _reason("cannot be decoded", error)) from error
        return frames

    def _check_sound(self, data: Any) -> None:
        """Refuse a packet or a frame that container or decoder mark as damaged."""
        if data.is_corrupt:
            raise VideoError(self.path, f"damaged at {self._at(data.pts)}")

    def _at(self, pts: int | None) -> str:
        return "an unknown time" if pts is None else f"{self._seconds([pts])[0]:.2f} s"


def read_clip(
    path: str | Path,
    choose: Callable[[int], Sequence[int]],
    *,
    start: float | None = None,
    end: float | None = None,
    salvage: bool = False,
) -> Tensor:
    """Open a file, let `choose(num_frames)` name the frames, and read them: uint8 (T, C, H, W).

    `start`, `end` and `salvage` are those of `VideoReader`; frame 0 is the first of the window.

    Raises:
        VideoError: the file or one of these frames cannot be read.
    """
    with VideoReader(path, start=start, end=end, salvage=salvage) as reader:
        try:
            return reader._read(choose(reader.num_frames))
        except _IndexMismatchError:
            reader.count_by_decoding()  # there may be fewer frames than packets: choose anew
            return reader._read(choose(reader.num_frames))


def find_videos(folder: Path) -> list[Path]:
    """All video files below `folder`, by suffix, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _pixels(frame: Any, reformatter: VideoReformatter) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB (H, W, C), turned upright."""
    # One thread, as in decoding: starting more takes longer than the conversion.
    image: Any = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as in numpy
    upright: np.ndarray[Any, np.dtype[np.uint8]] = np.rot90(image, quarter_turns)
    return upright


def _reason(what: str, error: Exception) -> str:
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{what} ({detail})"
