"""Open, seek and decode video files: exactly the frames that are asked for, in presentation order.

The container is read once without decoding: frame n is the packet with the n-th presentation time,
which is exact for variable frame rates and for headers that lie about the count. To read, the
decoder jumps to the last key frame before a wanted frame only when that lies ahead of where it is,
and stops at the last wanted frame. Files whose packets carry no usable times are counted by
decoding them.

A frame of the file is returned as it should be looked at: rotation metadata is applied.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from torch import Tensor

from stadapter.data.shards import open_member

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
    | {".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""File names (lower case) that are taken for videos when a folder is searched."""


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


class VideoReader:
    """Frames of one video stream by number. A context manager; one thread, nothing cached."""

    def __init__(self, path: str | Path) -> None:
        """Open the file and index its packets.

        Raises:
            VideoError: missing, empty, damaged, or without a video stream.
        """
        self.path = str(path)
        self._container = self._open()
        try:
            self._stream = self._pick_stream()
            self._pts, self._key_pts = self._index()
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
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Number of frames in presentation order."""
        return len(self._pts)

    @property
    def fps(self) -> float | None:
        """Average frames per second as the container states it, if it does."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    def read(self, indices: Sequence[int]) -> Tensor:
        """The frames with these numbers (repeats allowed), RGB: uint8 (T, C, H, W).

        Raises:
            IndexError: a number outside 0..num_frames-1.
            VideoError: one of the frames cannot be decoded, or decodes with visible damage.
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
        # One for all frames: setting up the conversion takes longer than converting a small frame.
        reformatter = VideoReformatter()
        decoded: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        for index, frame in self._frames(sorted(set(indices))):
            if frame.is_corrupt:
                raise VideoError(self.path, f"frame {index} is damaged")
            decoded[index] = _pixels(frame, reformatter)
        sizes = {image.shape for image in decoded.values()}
        if len(sizes) > 1:
            raise VideoError(self.path, f"the frame size changes within the video: {sorted(sizes)}")
        stacked = np.stack([decoded[i] for i in indices])  # (T, H, W, C)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()

    def count_by_decoding(self) -> None:
        """Number the frames by decoding the whole file, where packet times cannot be trusted.

        Raises:
            VideoError: a part of the file cannot be decoded, or nothing in it.
        """
        self._rewind()
        self._key_pts = []
        self._pts = list(range(sum(1 for _ in self._decode())))
        if not self._pts:
            raise VideoError(self.path, "no frame could be decoded")

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

    def _index(self) -> tuple[list[int], list[int]]:
        """Presentation times of all frames and of the key frames, ascending."""
        times: list[int | None] = []
        keys: list[int] = []
        num_packets = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size == 0:  # the flush packet at the end
                    continue
                num_packets += 1
                if packet.is_discard:  # cut away by an edit list: decoded, never shown
                    continue
                times.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        except av.FFmpegError as error:
            raise VideoError(self.path, _reason("damaged container", error)) from error
        self._check_complete(num_packets)
        pts = sorted(t for t in times if t is not None)
        incomplete = len(pts) < len(times) or len(set(pts)) < len(pts) or not keys
        # AVI stores no presentation times. For codecs that reorder frames freely FFmpeg guesses
        # them, and differently after a seek.
        guessed = self._container.format.name == "avi" and self._stream.codec_context.name in (
            "h264",
            "hevc",
        )
        if incomplete or guessed:
            self.count_by_decoding()
            return self._pts, []
        return pts, sorted(keys)

    def _check_complete(self, num_packets: int) -> None:
        """Refuse a file that ends early, for the containers whose headers can be believed."""
        declared, name = self._stream.frames, self._container.format.name
        if name.startswith("mov") and num_packets < declared:
            raise VideoError(
                self.path, f"truncated: {num_packets} of {declared} declared frames are in the file"
            )
        if name.startswith("matroska") and self._container.duration:
            wanted = self._container.duration / av.time_base
            self._rewind()
            reached = max(
                (
                    float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    for packet in self._container.demux()  # any stream may be the longest
                    if packet.pts is not None and packet.time_base is not None
                ),
                default=0.0,
            )
            if reached < 0.9 * wanted:
                raise VideoError(
                    self.path,
                    f"truncated: {reached:.1f} of {wanted:.1f} declared seconds are in the file",
                )

    def _frames(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        if not self._key_pts:
            yield from self._frames_by_count(indices)
            return
        self._rewind()
        position = self._pts[0] - 1  # presentation time of the last frame that came out
        frames = self._decode()
        for index in indices:
            wanted = self._pts[index]
            key = self._key_pts[max(0, bisect_right(self._key_pts, wanted) - 1)]
            if key > position and key > self._key_pts[0]:
                self._seek(key)
                frames = self._decode()
            for frame in frames:
                if frame.pts is None or frame.pts > wanted:
                    raise _IndexMismatchError
                position = frame.pts
                if position == wanted:
                    yield index, frame
                    break
            else:
                raise _IndexMismatchError

    def _frames_by_count(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        self._rewind()
        wanted = iter(indices)
        index = next(wanted, None)
        for number, frame in enumerate(self._decode()):
            if number == index:
                yield number, frame
                index = next(wanted, None)
                if index is None:
                    return

    def _decode(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(self._stream)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, _reason("cannot be decoded", error)) from error

    def _seek(self, pts: int) -> None:
        try:
            self._container.seek(pts, stream=self._stream)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.path, _reason("cannot be seeked", error)) from error

    def _rewind(self) -> None:
        self._container.close()
        self._container = self._open()
        self._stream = self._pick_stream()


def read_clip(path: str | Path, choose: Callable[[int], Sequence[int]]) -> Tensor:
    """Open a file, let `choose(num_frames)` name the frames, and read them: uint8 (T, C, H, W).

    Raises:
        VideoError: the file or one of these frames cannot be read.
    """
    with VideoReader(path) as reader:
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
    image: Any = reformatter.reformat(frame, format="rgb24").to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as in numpy
    upright: np.ndarray[Any, np.dtype[np.uint8]] = np.rot90(image, quarter_turns)
    return upright


def _reason(what: str, error: Exception) -> str:
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{what} ({detail})"
