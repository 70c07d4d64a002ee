"""Small videos whose every frame shows its own number, so that a test sees which frames were read.

A frame of 32 x 24 pixels is eight blocks, one per bit of its number, black or white: that survives
every lossy codec.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
WIDTH, HEIGHT = 32, 24
FPS = 10

CODECS: dict[str, dict[str, Any]] = {
    "h264 with B-frames": {"suffix": ".mp4", "options": {"bf": "3"}, "gop": 6},
    "h264, one key frame": {"suffix": ".mov", "options": {"bf": "2"}, "gop": 99},
    "h264, open GOP": {
        "suffix": ".mkv",
        "options": {"x264-params": "open-gop=1:keyint=6:min-keyint=6:bframes=2:b-adapt=0"},
    },
    "h264 in a transport stream": {"suffix": ".ts", "options": {"bf": "2"}, "gop": 6},
    "h264 in AVI, which has no times": {"suffix": ".avi", "options": {"bf": "2"}, "gop": 6},
    "mpeg4": {"suffix": ".mp4", "codec": "mpeg4", "gop": 4},
    "mpeg4 with B-frames": {"suffix": ".avi", "codec": "mpeg4", "options": {"bf": "2"}, "gop": 6},
    "mpeg2": {"suffix": ".mpg", "codec": "mpeg2video", "options": {"bf": "2"}, "gop": 6},
    "vp9": {
        "suffix": ".webm",
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8"},
        "gop": 7,
    },
    "mjpeg": {"suffix": ".avi", "codec": "mjpeg", "pixels": "yuvj420p"},
}
"""Kind of video -> suffix of its container and arguments of `write_video`."""


def numbered_frame(number: int) -> Image:
    """RGB (24, 32, 3) of a frame that shows `number`, 0 to 255."""
    bits = np.array([number >> bit & 1 for bit in range(8)], dtype=np.uint8).reshape(2, 4)
    blocks = np.kron(bits, np.ones((HEIGHT // 2, WIDTH // 4), dtype=np.uint8)) * 255
    return np.repeat(blocks[..., None], 3, axis=2)


def numbered_frames(count: int) -> list[Image]:
    """Frames 0 to count-1."""
    return [numbered_frame(number) for number in range(count)]


def shown_numbers(frames: Tensor) -> list[int]:
    """The numbers that decoded frames (T, 3, 24, 32) show."""
    grey = frames.float().mean(1)  # (T, 24, 32)
    blocks = grey.reshape(-1, 2, HEIGHT // 2, 4, WIDTH // 4).mean((2, 4)).reshape(-1, 8)
    return [sum(1 << bit for bit in range(8) if row[bit] > 127) for row in blocks]


def write_video(
    path: Path,
    frames: Sequence[Image],
    *,
    codec: str = "libx264",
    gop: int = 12,
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    rotation: int = 0,
    faststart: bool = False,
    cover: bool = False,
) -> Path:
    """Encode RGB frames (H, W, 3) into the container that the suffix names.

    Args:
        path: the file; folders above it are made.
        frames: in presentation order.
        codec: FFmpeg's name of the encoder.
        gop: distance of key frames.
        options: of the encoder.
        pixels: FFmpeg's name of the pixel format.
        times_ms: presentation time of each frame; 10 per second by default.
        rotation: display rotation in degrees, counter-clockwise.
        faststart: the index of an MP4 in front, so that a cut file still opens.
        cover: add a still image, marked as cover.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    container_options = {"movflags": "faststart"} if faststart else {}
    with av.open(f"file:{path}", "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=dict(options or {}))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.gop_size = gop
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        if cover:
            _add_cover(container)
        for number, image in enumerate(frames):
            if times_ms is None:
                frame = _frame(image, number)
            else:
                frame = _frame(image, times_ms[number], Fraction(1, 1000))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path, *, cover: bool = False) -> Path:
    """A second of silence, with or without a cover image, and no video."""
    with av.open(f"file:{path}", "w") as container:
        stream: Any = container.add_stream("aac", rate=16_000, layout="mono")
        if cover:
            _add_cover(container)
        samples = np.zeros((1, 16_000), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_collection(folder: Path, class_names: Sequence[str], clips_per_class: int) -> Path:
    """A folder per class of clips of 10 to 15 frames: noise around the class's grey level."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(class_names):
        for clip in range(clips_per_class):
            level = 40 + 80 * k
            frames = [
                np.clip(rng.normal(level, 30, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
                for _ in range(10 + clip % 6)
            ]
            write_video(folder / name / f"clip {clip}.mp4", frames, codec="mpeg4")
    return folder


def _add_cover(container: Any) -> None:
    still = container.add_stream("mjpeg", rate=FPS)
    still.height, still.width, still.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
    still.disposition = Disposition.attached_pic
    container.start_encoding()
    for packet in [*still.encode(_frame(numbered_frame(255), 0)), *still.encode()]:
        packet.pts = packet.dts = 0
        container.mux(packet)


def _frame(image: Image, pts: int, time_base: Fraction = Fraction(1, FPS)) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.pts, frame.time_base = pts, time_base
    return frame
