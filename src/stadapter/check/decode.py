"""Decode a file from end to end and say what it is and what is wrong with it.

Damage shows in many places, none of which is enough alone: the container's structure and checksums
(container.py), packets and frames that FFmpeg marks as corrupt, errors that it only logs, packets
from which no frame came, long runs of zeros where compressed data cannot have them, and, for two
codecs whose usual decoder notices almost nothing, a second look:

- VP9 is decoded by libvpx, which checks where each tile's arithmetic code ends.
- HEVC is decoded twice, straight through and from the entry points of its rows of blocks. Both give
  the same pictures unless a row does not end where the next one is said to begin.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import pairwise
from statistics import median
from typing import Any

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from stadapter.check.container import structure_faults
from stadapter.check.files import stamp, video_source
from stadapter.data import VideoError, VideoReader

CHECK_VERSION = 1
"""Raised whenever the same file would be judged otherwise."""

NUM_SHOWN = 8
"""Frames shown of a file."""
SHOWN_SIDE = 112
"""Their longer side in pixels."""
_MAX_MESSAGE = 120
"""Characters kept of one of FFmpeg's messages."""

_STRICT = "crccheck+bitstream+buffer"
_HARMLESS = (
    "mmco: unref short failure",  # H.264 that was cut and joined; no picture depends on it
    "unable to decode APP fields",  # notes of cameras in MJPEG
    "SEI type",  # notes in H.264 and HEVC that are shorter than they say
    "Referenced QT chapter track not found",
)
"""Parts of messages that FFmpeg logs as errors for files whose pictures are all there."""

_NO_ZERO_RUNS = frozenset({"av1", "h264", "hevc", "mpeg4", "vp8", "vp9"})
"""Codecs whose data hold no run of zeros: it would be escaped, or nothing codes so badly."""
_ZERO_RUN = re.compile(rb"\x00{64,}[^\x00\x01]")
"""Such a run; zeros at the end of a packet or before a start code are padding."""
_PLACEHOLDER_CODECS = frozenset({"h263", "mpeg4", "msmpeg4v3"})
_PLACEHOLDER_BYTES = 16
"""Packets of these codecs up to this long may say "as before", from which no frame comes."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a clip."""

    kind: str
    """One of `PROBLEMS` (findings.py)."""
    detail: str
    """For people."""


@dataclass(frozen=True)
class FileFacts:
    """What one file is. None: unknown, because it could not be read that far."""

    problems: tuple[Problem, ...]
    """Empty for a sound file."""
    bytes: int | None = None
    """Size of the file."""
    container: str | None = None
    """FFmpeg's name of the format."""
    codec: str | None = None
    """FFmpeg's name of the video codec."""
    width: int | None = None
    """Of the decoded frames in pixels, before rotation."""
    height: int | None = None
    """Of the decoded frames in pixels, before rotation."""
    rotation: int | None = None
    """Degrees by which a player turns them, counter-clockwise, 0 to 359."""
    frames_declared: int | None = None
    """As the header says; many containers say nothing."""
    frames_decoded: int = 0
    """Frames that the decoder gave out."""
    duration_seconds: float | None = None
    """From the first frame to the end of the last."""
    fps: float | None = None
    """Frames per second on average."""
    variable_rate: bool | None = None
    """Whether the frames come at more than one interval."""
    longest_gap_seconds: float | None = None
    """Longest time from one frame to the next."""
    audio: bool | None = None
    """Whether there is an audio stream."""
    content: str | None = None
    """Equal for files whose decoded frames are equal, whatever their container."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "FileFacts":
        """The inverse of `to_dict`."""
        problems = tuple(Problem(**problem) for problem in content["problems"])
        return cls(**{**content, "problems": problems})


def inspect_file(path: str) -> FileFacts:
    """Decode the whole file; whatever it holds, facts come back."""
    try:
        size, _ = stamp(path)
        if size == 0:
            return FileFacts((Problem("empty", "the file is empty"),), bytes=0)
        scan = _Scan(path)
        scan.structure()
        scan.decode()
        scan.open_as_training_does()
    except FileNotFoundError as error:
        return FileFacts((Problem("missing", _reason(error)),))
    except OSError as error:  # FFmpeg's errors are expected within; this is the disk
        return FileFacts((Problem("unreadable", _reason(error)),))
    return FileFacts(problems=scan.problems, bytes=size, **scan.facts)


def frames_shown(path: str) -> list[NDArray[np.uint8]]:
    """Some frames spread over what can be decoded, shrunk and upright: uint8 (H, W, 3) each."""
    kept: list[NDArray[np.uint8]] = []
    stride = 1  # doubled when there are enough: how many frames come is not known before
    try:
        with _open(path) as container:
            stream = _pick_stream(container)
            if stream is None:
                return []
            frames = _decoded(container.demux(stream), _usual_decoder(stream), [])
            for number, frame in enumerate(frames):
                if number % stride == 0:
                    kept.append(_thumbnail(frame))
                    if len(kept) > 4 * NUM_SHOWN:
                        kept, stride = kept[::2], 2 * stride
    except (av.FFmpegError, OSError):
        return []  # why is said by `inspect_file`
    count = min(NUM_SHOWN, len(kept))
    return [kept[(2 * i + 1) * len(kept) // (2 * count)] for i in range(count)]


class _Scan:
    """One look at one file, which gathers facts and problems."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self._details: dict[str, list[str]] = {}
        self._errors: list[str] = []

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was found; of many details of one kind, the first."""
        return tuple(Problem(kind, "; ".join(d[:3])) for kind, d in self._details.items())

    def _add(self, kind: str, detail: str) -> None:
        self._details.setdefault(kind, []).append(detail)

    def structure(self) -> None:
        """Follow the container's own structure."""
        for fault in structure_faults(self.path):
            self._add("truncated" if fault.truncated else "damaged", fault.detail)

    def decode(self) -> None:
        """Decode everything, and listen to what FFmpeg logs."""
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture(local=False) as logs:  # some decoders have their own threads
                self._decode()
        finally:
            av.logging.set_level(None)
        told = [text.strip() for level, _, text in logs if level <= av.logging.ERROR]
        told = [text for text in told if text and not any(part in text for part in _HARMLESS)]
        messages = told + self._errors
        if messages and "unreadable" not in self._details:
            more = f" and {len(messages) - 1:,} more messages" if len(messages) > 1 else ""
            self._add("damaged", f"FFmpeg: {messages[0][:_MAX_MESSAGE]}{more}")

    def open_as_training_does(self) -> None:
        """What the reader of `train` refuses is not sound, whatever was found before."""
        if not self._details:
            try:
                with VideoReader(self.path):
                    pass
            except VideoError as error:
                truncated = error.reason.startswith("truncated")
                self._add("truncated" if truncated else "unreadable", error.reason)

    def _decode(self) -> None:
        try:
            container = _open(self.path)
        except av.FFmpegError as error:
            self._add("unreadable", f"cannot be opened ({_reason(error)})")
            return
        with container:
            self.facts["container"] = container.format.name
            self.facts["audio"] = bool(container.streams.audio)
            stream = _pick_stream(container)
            if stream is None:
                what = "only audio" if container.streams.audio else "no audio either"
                self._add("no_video", f"no video stream, {what}")
                return
            self.facts["codec"] = stream.codec_context.codec.canonical_name
            self.facts["frames_declared"] = stream.frames or None
            self._decode_stream(container, stream)
        if self.facts["codec"] == "hevc" and not self._details and not self._errors:
            self._decode_by_rows()

    def _decode_stream(self, container: Any, stream: Any) -> None:
        codec = self.facts["codec"]
        packets = _Packets(codec)
        counted = packets.count(container.demux(stream))
        content = blake2b(digest_size=16)
        sizes: dict[tuple[int, int], None] = {}
        corrupt: list[int] = []
        interlaced = False
        number = 0
        for frame in _decoded(counted, _decoder(stream, codec), self._errors):
            if not sizes:
                self.facts |= {"width": frame.width, "height": frame.height}
            sizes[frame.width, frame.height] = None
            if frame.is_corrupt:
                corrupt.append(number)
            interlaced |= bool(frame.interlaced_frame)
            content.update(_luma_checksum(frame).to_bytes(4, "little"))
            number += 1
        self.facts["frames_decoded"] = number
        self.facts |= packets.timing(stream)
        declared = self.facts["frames_declared"]
        if container.format.name.startswith("mov") and declared and packets.num < declared:
            self._add("truncated", f"{packets.num:,} of {declared:,} declared frames are there")
        if not number:
            self._add("unreadable", "no frame could be decoded")
            return
        rotation = self.facts["rotation"] = _rotation(self.path)
        content.update(f"{list(sizes)} {rotation}".encode())
        self.facts["content"] = content.hexdigest()
        if corrupt:
            self._add(
                "damaged",
                f"{len(corrupt):,} of {number:,} frames are damaged, from frame {corrupt[0]:,}",
            )
        if packets.num_corrupt:
            self._add(
                "damaged",
                f"{packets.num_corrupt:,} of {packets.num:,} packets are marked as damaged",
            )
        if packets.zero_run is not None:
            self._add("damaged", f"a run of zeros in packet {packets.zero_run:,}")
        # Two fields may come in two packets.
        if number < packets.num_shown and not interlaced:
            self._add(
                "lost_frames",
                f"{number:,} frames come out of packets for {packets.num_shown:,}",
            )
        if len(sizes) > 1:
            listed = ", ".join(f"{w} x {h}" for w, h in sizes)
            self._add("size_change", f"the frame size changes within the video: {listed}")

    def _decode_by_rows(self) -> None:
        """Compare HEVC decoded straight through and by rows of blocks, frame by frame."""
        with _open(self.path) as straight, _open(self.path) as by_rows:
            frames = []
            for container, threads in ((straight, "NONE"), (by_rows, "SLICE")):
                stream = _pick_stream(container)
                context = stream.codec_context
                context.thread_type, context.thread_count = threads, 2 if threads != "NONE" else 1
                frames.append(_decoded(container.demux(stream), context, self._errors))
            for number, (one, other) in enumerate(zip(*frames, strict=False)):
                if _luma_checksum(one) != _luma_checksum(other):
                    self._add(
                        "damaged", f"frame {number:,}: its rows do not end where the next begin"
                    )
                    return


class _Packets:
    """What is counted while packets go by on their way to the decoder."""

    def __init__(self, codec: str) -> None:
        self.num = 0
        """Packets that hold something."""
        self.num_shown = 0
        """Packets from which a frame must come."""
        self.num_corrupt = 0
        """Packets that the demuxer marks."""
        self.zero_run: int | None = None
        """The first packet with zeros that its codec cannot have written."""
        self._codec = codec
        self._times: list[int | None] = []
        self._last_duration = 0
        self._first_key: int | None = None

    def count(self, packets: Iterable[Any]) -> Iterator[Any]:
        """Pass the packets on."""
        for packet in packets:
            if packet.size:
                self._look_at(packet)
            yield packet

    def _look_at(self, packet: Any) -> None:
        data = bytes(packet)
        if self.zero_run is None and self._codec in _NO_ZERO_RUNS and _ZERO_RUN.search(data):
            self.zero_run = self.num
        self.num += 1
        self.num_corrupt += packet.is_corrupt
        if packet.is_discard:  # cut away by an edit list
            return
        if packet.is_keyframe and self._first_key is None:
            self._first_key = packet.pts
        # Pictures before the first key frame in time, though after it in the file, look back on
        # what was cut off: no decoder shows them.
        leading = None not in (packet.pts, self._first_key) and packet.pts < self._first_key
        if leading or not _is_shown(self._codec, data):
            return
        placeholder = self._codec in _PLACEHOLDER_CODECS and len(data) <= _PLACEHOLDER_BYTES
        self.num_shown += not placeholder
        self._times.append(packet.pts)
        self._last_duration = packet.duration or 0

    def timing(self, stream: Any) -> dict[str, Any]:
        """Duration, rate and gaps, from the times of the packets where they have them."""
        times = sorted({t for t in self._times if t is not None})
        if None in self._times or not times:
            rate = float(stream.average_rate) if stream.average_rate else None
            seconds = self.num_shown / rate if rate else None
            return {"duration_seconds": _rounded(seconds), "fps": _rounded(rate)}
        tick = float(stream.time_base)
        gaps = [after - before for before, after in pairwise(times)]
        usual = median(gaps) if gaps else 0
        seconds = (times[-1] - times[0] + (self._last_duration or usual)) * tick
        return {
            "duration_seconds": _rounded(seconds),
            "fps": _rounded(len(times) / seconds if seconds else None),
            # Times are whole ticks: one more or less is rounding.
            "variable_rate": any(abs(gap - usual) > max(1, 0.1 * usual) for gap in gaps),
            "longest_gap_seconds": _rounded(max(gaps) * tick if gaps else None),
        }


def _is_shown(codec: str, data: bytes) -> bool:
    """Whether a frame should come out of a packet: some only hold what others refer to."""
    if codec == "vp8":
        return bool(data[0] >> 4 & 1)
    if codec == "vp9" and data[-1] & 0xE0 != 0xC0:  # no superframe, which ends in a shown one
        bits = data[0] << 8 | (data[1] if len(data) > 1 else 0)
        at = 12 - (bits >> 12 & 3 == 3)  # profile 3 has one bit more
        return bool(bits >> (at - 1) & 1 or bits >> (at - 3) & 1)
    return True


def _open(path: str) -> Any:
    return av.open(video_source(path), metadata_errors="replace", options={"err_detect": _STRICT})


def _pick_stream(container: Any) -> Any:
    """The stream that `VideoReader` takes, or None."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _usual_decoder(stream: Any) -> Any:
    stream.codec_context.thread_count = 1  # the processes share the cores already
    return stream.codec_context


def _decoder(stream: Any, codec: str) -> Any:
    """The decoder that notices most."""
    context = _usual_decoder(stream)
    # Builds of libvpx may lack more than 8 bits.
    if codec == "vp9" and context.format and context.format.components[0].bits == 8:
        try:
            context = av.CodecContext.create("libvpx-vp9", "r")
        except UnknownCodecError:  # a PyAV without it
            return context
        context.extradata = stream.codec_context.extradata
        context.thread_count = 1
    # "aggressive" minds data left over at the end of a slice; other decoders of FFmpeg would mind
    # habits of old encoders.
    strict = f"{_STRICT}+aggressive" if codec == "h264" else _STRICT
    context.options = {"err_detect": strict} | ({"strict": "strict"} if codec == "av1" else {})
    return context


def _decoded(packets: Iterable[Any], context: Any, errors: list[str]) -> Iterator[Any]:
    """All frames that come out; what the demuxer and the decoder refuse goes to `errors`."""
    source = iter(packets)
    while True:
        try:
            packet = next(source, None)
        except av.FFmpegError as error:
            errors.append(_reason(error))
            packet = None
        if packet is not None and packet.size == 0:
            continue  # the demuxer's word that it is at the end
        try:
            yield from context.decode(packet)
        except av.FFmpegError as error:
            errors.append(_reason(error))
        if packet is None:
            return


def _luma_checksum(frame: Any) -> int:
    """CRC-32 of the first plane, without the padding of its lines."""
    plane, layout = frame.planes[0], frame.format
    if layout.is_planar:
        bits = -(-layout.components[0].bits // 8) * 8
    else:
        bits = layout.padded_bits_per_pixel
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return zlib.crc32(lines[: frame.height, : -(-frame.width * bits // 8)].tobytes())


def _rotation(path: str) -> int | None:
    """From the first frame of FFmpeg's usual decoder; others are not told."""
    with _open(path) as container:
        stream = _pick_stream(container)
        for frame in _decoded(container.demux(stream), _usual_decoder(stream), []):
            turn: int = round(frame.rotation) % 360
            return turn
    return None


def _thumbnail(frame: Any) -> NDArray[np.uint8]:
    scale = min(1.0, SHOWN_SIDE / max(frame.width, frame.height))
    small: Any = VideoReformatter().reformat(
        frame,
        width=max(1, round(frame.width * scale)),
        height=max(1, round(frame.height * scale)),
        format="rgb24",
    )
    upright: NDArray[np.uint8] = np.rot90(small.to_ndarray(), round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(upright)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
