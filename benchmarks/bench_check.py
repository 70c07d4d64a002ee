"""What `stadapter check` notices: clips in many codecs, sound ones and damaged ones.

For each codec and kind of damage, `--repeats` damaged copies of one generated clip. A copy that is
not found and whose decoded frames are those of the sound clip was not harmed and is not counted.
Then sound files that are unusual. Prints how many damaged ones were found and every sound one that
was flagged; the last line is JSON.

    python benchmarks/bench_check.py --repeats 10
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from stadapter.check.decode import FileFacts, inspect_file
from stadapter.tables import table_text

WIDTH, HEIGHT, NUM_FRAMES = 192, 144, 48

CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "H.264 CABAC, mp4": (".mp4", "libx264", "yuv420p", {"crf": "26", "bf": "2"}),
    "H.264 CAVLC, mp4": (".mp4", "libx264", "yuv420p", {"crf": "26", "profile": "baseline"}),
    "H.264, mkv": (".mkv", "libx264", "yuv420p", {"crf": "26"}),
    "H.264, avi": (".avi", "libx264", "yuv420p", {"crf": "26", "bf": "0"}),
    "H.264, ts": (".ts", "libx264", "yuv420p", {"crf": "26"}),
    "H.264, flv": (".flv", "libx264", "yuv420p", {"crf": "26"}),
    "HEVC, mp4": (".mp4", "libx265", "yuv420p", {"crf": "28"}),
    "HEVC without rows, mp4": (".mp4", "libx265", "yuv420p", {"x265-params": "wpp=0"}),
    "VP9, webm": (".webm", "libvpx-vp9", "yuv420p", {"crf": "34", "b": "0", "cpu-used": "6"}),
    "VP9, mp4": (".mp4", "libvpx-vp9", "yuv420p", {"crf": "34", "b": "0", "cpu-used": "6"}),
    "VP8, webm": (".webm", "libvpx", "yuv420p", {"b": "500k", "cpu-used": "6"}),
    "VP8, mkv": (".mkv", "libvpx", "yuv420p", {"b": "500k", "cpu-used": "6"}),
    "AV1, mp4": (".mp4", "libsvtav1", "yuv420p", {"preset": "10", "crf": "38"}),
    "AV1, webm": (".webm", "libsvtav1", "yuv420p", {"preset": "10", "crf": "38"}),
    "MPEG-4, avi": (".avi", "mpeg4", "yuv420p", {"b": "600k"}),
    "MPEG-4, mp4": (".mp4", "mpeg4", "yuv420p", {"b": "600k"}),
    "MPEG-2, mpg": (".mpg", "mpeg2video", "yuv420p", {"b": "900k"}),
    "MPEG-2, ts": (".ts", "mpeg2video", "yuv420p", {"b": "900k"}),
    "Motion JPEG, avi": (".avi", "mjpeg", "yuvj420p", {}),
    "ProRes, mov": (".mov", "prores", "yuv422p10le", {}),
    "WMV2, wmv": (".wmv", "wmv2", "yuv420p", {"b": "600k"}),
    "GIF": (".gif", "gif", "rgb8", {}),
}
"""Name -> suffix, encoder, pixel format, options."""


def pictures(count: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT) -> list[Any]:
    """Moving waves, a textured background and a disc: RGB (H, W, 3) each."""
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 18, (height + count, width + 2 * count, 1))
    y, x = np.mgrid[:height, :width]
    frames = []
    for t in range(count):
        wave = 110 + 40 * np.sin((x + 3 * t) / 17) + 30 * np.cos((y - 2 * t) / 11)
        image = np.stack([wave, 0.8 * wave + 20, 255 - wave], -1)
        image += texture[t : t + height, 2 * t : 2 * t + width]
        image[(x - 30 - 1.5 * t) ** 2 + (y - 60 - 20 * np.sin(t / 6)) ** 2 < 200] = (220, 40, 40)
        frames.append(np.clip(image, 0, 255).astype(np.uint8))
    return frames


def encode(
    path: Path,
    frames: list[Any],
    codec: str,
    pixels: str,
    options: dict[str, str],
    *,
    gop: int = 24,
    times_ms: list[int] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write the frames, 25 per second or at `times_ms`."""
    if codec == "libx265":
        given = options.get("x265-params")
        options = options | {"x265-params": "log-level=none" + (f":{given}" if given else "")}
    base = Fraction(1, 25) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pixels, gop
        stream.codec_context.time_base = base
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times_ms is None else times_ms[number]
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# -- damage ----------------------------------------------------------------------------------------


def _flip(data: bytearray, rng: random.Random, count: int) -> bytearray:
    for _ in range(count):
        data[rng.randrange(len(data) // 4, len(data) * 3 // 4)] ^= rng.randrange(1, 256)
    return data


def _one_bit(data: bytearray, rng: random.Random) -> bytearray:
    data[rng.randrange(len(data) // 4, len(data) * 3 // 4)] ^= 1 << rng.randrange(8)
    return data


def _replace(data: bytearray, rng: random.Random, new: bytes) -> bytearray:
    start = rng.randrange(len(data) // 4, len(data) * 3 // 4 - len(new))
    data[start : start + len(new)] = new
    return data


def _zero_middle(data: bytearray, _: random.Random) -> bytearray:
    start, stop = len(data) * 2 // 5, len(data) * 3 // 5
    data[start:stop] = bytes(stop - start)
    return data


DAMAGE: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    "1 bit": _one_bit,
    "3 bytes": lambda data, rng: _flip(data, rng, 3),
    "30 bytes": lambda data, rng: _flip(data, rng, 30),
    "512 random": lambda data, rng: _replace(data, rng, rng.randbytes(512)),
    "4096 zeros": lambda data, rng: _replace(data, rng, bytes(4096)),
    "zeroed fifth": _zero_middle,
    "cut tail": lambda data, rng: data[: int(len(data) * rng.uniform(0.5, 0.98))],
}
"""Kind of damage -> what it does to a file's bytes, away from its first and last quarter."""


# -- sound but unusual -----------------------------------------------------------------------------


def sound_files(folder: Path) -> Iterator[Path]:
    """Files with nothing wrong that a careless check would flag."""
    folder.mkdir()
    frames = pictures()
    few = frames[:12]

    def write(name: str, codec: str, pixels: str = "yuv420p", **more: Any) -> Path:
        options = more.pop("options", {})
        return encode(folder / name, more.pop("frames", frames), codec, pixels, options, **more)

    yield write("b-pyramid.mp4", "libx264", options={"bf": "8", "b-pyramid": "normal"})
    yield write("interlaced.mkv", "libx264", options={"x264-params": "tff=1"})
    yield write("slices.mp4", "libx264", options={"x264-params": "slices=4"})
    yield write("intra refresh.mp4", "libx264", options={"x264-params": "intra-refresh=1"})
    yield write("lossless.mp4", "libx264", "yuv444p", options={"qp": "0"})
    yield write("10 bit.mkv", "libx264", "yuv420p10le")
    yield write("cbr filler.ts", "libx264", options={"nal-hrd": "cbr", "b": "1M", "maxrate": "1M"})
    yield write("fragments.mp4", "libx264", muxer={"movflags": "frag_keyframe+empty_moov"})
    yield write("index first.mp4", "libx264", muxer={"movflags": "faststart"})
    yield write("blu-ray packets.m2ts", "libx264")
    yield write("live.mkv", "libx264", muxer={"live": "1"})
    yield write("small clusters.webm", "libvpx-vp9", muxer={"cluster_time_limit": "100"})
    yield write("hidden frames.webm", "libvpx", options={"auto-alt-ref": "1", "b": "300k"})
    alternate = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k", "cpu-used": "5"}
    yield write("hidden frames vp9.webm", "libvpx-vp9", options=alternate)
    yield write("444 vp9.webm", "libvpx-vp9", "yuv444p", frames=few)
    tiles = {"tile-columns": "1", "frame-parallel": "1", "cpu-used": "8"}
    yield write("tiles vp9.mp4", "libvpx-vp9", frames=pictures(4, 640, 360), options=tiles)
    yield write("10 bit hevc.mp4", "libx265", "yuv420p10le", frames=few)
    yield write(
        "slices hevc.mp4",
        "libx265",
        frames=pictures(4, 640, 360),
        options={"x265-params": "slices=3"},
    )
    yield write("10 bit av1.mkv", "libsvtav1", "yuv420p10le", frames=few)
    yield write("full colour.avi", "mjpeg", "yuvj444p", frames=few)
    yield write("b frames.avi", "mpeg4", options={"bf": "2"})
    yield write("phone.3gp", "h263", frames=pictures(12, 176, 144))
    yield write("lossless.mkv", "ffv1", "yuv420p", frames=few)
    yield write("screen.mov", "qtrle", "rgb24", frames=few)
    times = [0, 40, 55, 300, 310, 700, 740, 1500, 1533, 1566, 1600, 4000]
    yield write("variable rate.mp4", "libx264", frames=few, times_ms=times)
    yield write("variable rate.webm", "libvpx-vp9", frames=few, times_ms=times)
    black = [np.zeros((1080, 1920, 3), np.uint8)] * 4
    for name, codec in (("a.mp4", "libx264"), ("b.webm", "libvpx-vp9"), ("c.webm", "libvpx")):
        yield write(f"black {name}", codec, frames=black)
    yield write("one frame.webm", "libvpx-vp9", frames=frames[:1])
    appended = write("appended.mp4", "mpeg4")
    appended.write_bytes(appended.read_bytes() + b"\x01" * 100)
    yield appended
    opened = {"x264-params": "open-gop=1:bframes=2:b-adapt=0"}
    for name, codec, options in (
        ("h264", "libx264", opened),
        ("hevc", "libx265", {"x265-params": "open-gop=1:bframes=3:b-adapt=0"}),
    ):
        whole = write(f"open {name}.mkv", codec, options=options, gop=12)
        yield whole
        yield cut_at_key_frame(whole, folder / f"cut from open {name}.mkv")
        yield cut_at_key_frame(whole, folder / f"cut from open {name}.mp4")


def cut_at_key_frame(source: Path, target: Path) -> Path:
    """Copy the packets from the second key frame on, as editors do without encoding anew."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        stream = whole.streams.video[0]
        copy = part.add_stream_from_template(stream)
        keys = 0
        for packet in whole.demux(stream):
            keys += packet.is_keyframe and packet.size > 0
            if keys >= 2 and packet.size:
                packet.stream = copy
                part.mux(packet)
    return target


# -- counting --------------------------------------------------------------------------------------


def measure(repeats: int, only: str) -> dict[str, Any]:
    """Found and harmed copies of each codec and kind of damage, and the flagged sound files."""
    results: dict[str, dict[str, tuple[int, int]]] = {}
    flagged: dict[str, str] = {}
    num_sound = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        frames = pictures()
        for name, (suffix, codec, pixels, options) in CODECS.items():
            if only not in name:
                continue
            sound = encode(folder / f"sound{suffix}", frames, codec, pixels, options)
            facts = inspect_file(str(sound))
            num_sound += 1
            if facts.problems:
                flagged[name] = _told(facts)
            results[name] = {
                kind: _found(sound, facts, damage, kind, repeats) for kind, damage in DAMAGE.items()
            }
        for path in sound_files(folder / "unusual") if not only else ():
            num_sound += 1
            facts = inspect_file(str(path))
            if facts.problems:
                flagged[path.name] = _told(facts)
    return {"found": results, "num_sound": num_sound, "flagged": flagged}


def _found(
    sound: Path,
    facts: FileFacts,
    damage: Callable[[bytearray, random.Random], bytearray],
    kind: str,
    repeats: int,
) -> tuple[int, int]:
    found = harmed = 0
    path = sound.with_name(f"damaged{sound.suffix}")
    for repeat in range(repeats):
        path.write_bytes(damage(bytearray(sound.read_bytes()), random.Random(f"{kind} {repeat}")))
        now = inspect_file(str(path))
        if now.problems or now.content != facts.content:
            harmed += 1
            found += bool(now.problems)
    return found, harmed


def _told(facts: FileFacts) -> str:
    return "; ".join(f"{problem.kind}: {problem.detail}" for problem in facts.problems)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="Damaged copies of each kind.")
    parser.add_argument("--only", default="", help="Part of a codec's name.")
    settings = parser.parse_args()
    result = measure(settings.repeats, settings.only)
    rows = [
        {"codec": name} | {kind: f"{found}/{harmed}" for kind, (found, harmed) in kinds.items()}
        for name, kinds in result["found"].items()
    ]
    print(table_text(rows))
    print(f"{len(result['flagged'])} of {result['num_sound']} sound files flagged")
    for name, told in result["flagged"].items():
        print(f"  {name}: {told}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
