"""How fast clips are read, beside what the published code does and beside other readers.

    python benchmarks/bench_decode.py                     # the table, the full path, then JSON
    python benchmarks/bench_decode.py --memory            # also a 10-minute 1080p file
    python benchmarks/bench_decode.py --num_clips 2000    # also memory over that many clips

The clips are made here: a textured scene that pans, with moving boxes and grain. Every reader runs
in this process on one thread, turn by turn, and what is compared are ratios within a turn. Times
are processor time, all threads together: other work on the machine hardly adds to it. "baseline"
does what the published code does: the whole file into memory, all frames decoded and kept, the
chosen ones converted. torchcodec and decord take part where they are installed. All frames are
compared with the baseline's. "decoder alone" is no reader but what none of them can do without:
the pictures between key frame and wanted frame that something refers to, with all else done before.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from stadapter.data import AugmentConfig, Preprocessing, SamplingConfig, TrainReader, sample_test
from stadapter.data.dataset import ClipSample, collate
from stadapter.data.video import VideoReader, read_clip
from stadapter.prepare import PrepareConfig, prepare_file

Choose = Callable[[int], list[int]]
SAMPLINGS = {"dense": SamplingConfig(8, 16), "uniform": SamplingConfig(8)}
CLIPS: dict[str, dict[str, Any]] = {
    "Kinetics-like": {"file": "kinetics.mp4", "size": (340, 256), "fps": 25, "seconds": 10},
    "SSv2-like": {"file": "ssv2.webm", "size": (426, 240), "fps": 12, "seconds": 4},
    "60 s 720p": {"file": "long.mp4", "size": (1280, 720), "fps": 25, "seconds": 60},
}
ENCODERS = {
    ".mp4": ("libx264", {"crf": "23", "preset": "fast"}),
    ".webm": ("libvpx-vp9", {"b": "300k", "deadline": "good", "cpu-used": "4"}),
}


# -- clips -------------------------------------------------------------------------------------


def scene(width: int, height: int, count: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """RGB (h, w, 3) frames."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, height // 8 + 60, width // 8 + 60))).float()
    wide = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    background = (255 * wide[0]).permute(1, 2, 0).numpy()
    grain = rng.normal(0, 3, (8, height, width, 1))
    for t in range(count):
        x, y = int(240 * abs(t / 150 % 2 - 1)), int(30 + 20 * np.sin(t / 40))
        frame = background[y : y + height, x : x + width].copy()
        for k in range(4):
            left = int((width - 80) * (0.5 + 0.5 * np.sin(t / (20 + 7 * k) + k)))
            top = int((height - 60) * (0.5 + 0.5 * np.cos(t / (25 + 5 * k) + 2 * k)))
            frame[top : top + 60, left : left + 80] *= 0.3 + 0.1 * k
        yield np.clip(frame + grain[t % 8], 0, 255).astype(np.uint8)


def write_clip(path: Path, size: tuple[int, int], fps: int, seconds: int, gop: int = 250) -> None:
    """Encode the scene."""
    codec, options = ENCODERS[path.suffix]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.gop_size = gop
        for image in scene(*size, fps * seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def repeat_clip(source: Path, target: Path, times: int) -> None:
    """The same packets again and again: a long file without a long encoding."""
    with av.open(str(target), "w") as after:
        stream: Any = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as before:
                old = before.streams.video[0]
                stream = stream or after.add_stream_from_template(old)
                for packet in before.demux(old):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    after.mux(packet)
                offset += old.duration


# -- readers -----------------------------------------------------------------------------------


def baseline(path: Path, choose: Choose) -> Tensor:
    """Read all, decode all, keep all, convert the chosen."""
    with av.open(io.BytesIO(path.read_bytes())) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
        convert = VideoReformatter().reformat
        chosen = [
            convert(frames[i], format="rgb24", threads=1).to_ndarray() for i in choose(len(frames))
        ]
    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2)


def torchcodec_reader(mode: str) -> Callable[[Path, Choose], Tensor]:
    """torchcodec's decoder in one of its two seek modes."""

    def read(path: Path, choose: Choose) -> Tensor:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode=mode)
        frames: Tensor = decoder.get_frames_at(choose(len(decoder))).data
        return frames

    return read


def decord_reader(path: Path, choose: Choose) -> Tensor:
    """decord's reader."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return torch.from_numpy(reader.get_batch(choose(len(reader))).asnumpy()).permute(0, 3, 1, 2)


def readers() -> dict[str, Callable[[Path, Choose], Tensor]]:
    """By name, those that can be used here."""
    found: dict[str, Callable[[Path, Choose], Tensor]] = {
        "stadapter": read_clip,
        "baseline": baseline,
    }
    if find_spec("torchcodec"):
        found["torchcodec"] = torchcodec_reader("exact")
        found["torchcodec approximate"] = torchcodec_reader("approximate")
    if find_spec("decord"):
        found["decord"] = decord_reader
    return found


def decoder_alone(path: Path, choose: Choose) -> Callable[[], None]:
    """Decode those pictures; their packets are in memory already."""
    container = av.open(str(path))
    codec = container.streams.video[0].codec_context
    codec.thread_count = 1
    packets = [packet for packet in container.demux(video=0) if packet.size]
    times = sorted(packet.pts for packet in packets)
    wanted = {times[i] for i in choose(len(times))}
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    groups = []
    for first, end in pairwise([*keys, len(packets)]):
        last = max((i for i in range(first, end) if packets[i].pts in wanted), default=None)
        if last is not None:
            groups.append(packets[first : last + 1])

    def decode() -> None:
        for group in groups:
            codec.flush_buffers()
            for packet in group:
                if codec.name == "h264":
                    codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                codec.decode(packet)
            codec.decode(None)

    return decode


def chooser(sampling: SamplingConfig) -> Choose:
    """The test clip of that sampling."""
    return lambda total: sample_test(total, sampling)[0]


# -- measuring ---------------------------------------------------------------------------------


def take_turns(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each job in each round; who is first changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            jobs[name]()
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Median and quartiles over rounds of slow / fast."""
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return {"median": round(middle, 2), "q25": round(low, 2), "q75": round(high, 2)}


def table_row(
    name: str, path: Path, sampling: str, rounds: int, baseline_path: Path
) -> dict[str, Any]:
    """All readers on one clip; the baseline may be given the file before `prepare`."""
    choose = chooser(SAMPLINGS[sampling])
    functions = readers()
    files = {reader: path for reader in functions} | {"baseline": baseline_path}
    expected = baseline(path, choose)
    differ = [
        reader
        for reader, read in functions.items()
        if reader != "baseline" and not torch.equal(read(path, choose), expected)
    ]
    jobs: dict[str, Callable[[], Any]] = {
        reader: (lambda read=read, file=files[reader]: read(file, choose))
        for reader, read in functions.items()
    }
    jobs["decoder alone"] = decoder_alone(path, choose)
    seconds = take_turns(jobs, rounds)
    others = [r for r in functions if r not in ("stadapter", "baseline")]
    if path == baseline_path:
        others.append("baseline")
    fastest = min(others, key=lambda r: statistics.median(seconds[r])) if others else None
    return {
        "clip": name,
        "sampling": sampling,
        "rounds": rounds,
        "ms": {r: round(1000 * statistics.median(s), 1) for r, s in seconds.items()},
        "faster_than_baseline": ratio(seconds["baseline"], seconds["stadapter"]),
        "fastest_other": fastest,
        "faster_than_it": fastest and ratio(seconds[fastest], seconds["stadapter"]),
        "other_frames": differ,
    }


def full_path(path: Path, rounds: int) -> dict[str, Any]:
    """Decode and train transforms to a batch of 8, on one core, by stages."""
    preprocessing = Preprocessing((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    result: dict[str, Any] = {}
    for name, sampling in SAMPLINGS.items():
        reader = TrainReader(sampling, preprocessing, AugmentConfig(), seed=0)
        choose = chooser(sampling)
        stages: dict[str, float] = dict.fromkeys(("index", "decode", "transform", "batch"), 0.0)
        whole = 0.0
        for turn in range(rounds + 1):
            for _ in range(8):
                marks = [time.process_time()]
                with VideoReader(path) as opened:
                    marks.append(time.process_time())
                    frames = opened.read(choose(opened.num_frames))
                marks.append(time.process_time())
                reader.augment.apply(frames, preprocessing)
                marks.append(time.process_time())
                if turn:
                    for stage, (a, b) in zip(stages, pairwise(marks), strict=False):
                        stages[stage] += b - a
            start = time.process_time()
            clips = [ClipSample(c, reader(str(path), (turn, c)), 0) for c in range(8)]
            middle = time.process_time()
            collate(clips)
            end = time.process_time()
            if turn:
                stages["batch"] += end - middle
                whole += end - start
        total = sum(stages.values())
        result[name] = {
            "clips_per_second_per_core": round(8 * rounds / whole, 1),
            "share": {stage: round(seconds / total, 3) for stage, seconds in stages.items()},
        }
    return result


def resident_mb(field: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("memory can be measured on Linux only")


def memory_of_reading(path: str) -> None:
    """In a process of its own: what reading the file adds to it, at most."""
    idle = resident_mb("VmRSS")
    for sampling in SAMPLINGS.values():
        read_clip(path, chooser(sampling))
    print(json.dumps({"idle_mb": round(idle), "added_mb": round(resident_mb("VmHWM") - idle)}))


def growth(paths: Sequence[Path], num_clips: int) -> dict[str, Any]:
    """Memory after a tenth of the clips and after all."""
    preprocessing = Preprocessing((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    reader = TrainReader(SamplingConfig(8), preprocessing, AugmentConfig(), seed=0)
    early = 0.0
    for clip in range(num_clips):
        reader(str(paths[clip % len(paths)]), (0, clip))
        if clip == num_clips // 10:
            early = resident_mb("VmRSS")
    return {
        "clips": num_clips,
        "mb_after_a_tenth": round(early),
        "mb_at_the_end": round(resident_mb("VmRSS")),
    }


def installed(package: str) -> str:
    """Version, or that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    times = "  ".join(f"{reader} {ms:.1f}" for reader, ms in row["ms"].items())
    beside = ""
    if row["fastest_other"]:
        beside = f"  vs {row['fastest_other']} {row['faster_than_it']['median']}x"
    base = row["faster_than_baseline"]
    print(
        f"{row['clip']:<14} {row['sampling']:<8} ms: {times}  vs baseline {base['median']}x "
        f"({base['q25']} to {base['q75']}){beside}",
        flush=True,
    )


def main() -> None:
    """Make the clips, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rounds_long", type=int, default=5, help="on the 60 s clip")
    parser.add_argument("--memory", action="store_true", help="read a 10-minute 1080p file")
    parser.add_argument("--num_clips", type=int, default=0, help="look for growth over so many")
    parser.add_argument("--folder", type=Path, help="keep the clips here for the next time")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        memory_of_reading(options.memory_of)
        return
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(folder, options)
    print(json.dumps(result))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark."""
    files = {name: folder / clip["file"] for name, clip in CLIPS.items()}
    for name, clip in CLIPS.items():
        if not files[name].exists():
            write_clip(files[name], clip["size"], clip["fps"], clip["seconds"])
    kinetics, prepared = files["Kinetics-like"], folder / "prepared.mp4"
    if not prepared.exists():
        prepare_file(kinetics, prepared, PrepareConfig())
    load = os.getloadavg()[0]
    rows = []
    jobs = [(name, path, path) for name, path in files.items()]
    jobs.append(("prepared", prepared, kinetics))
    for name, path, base in jobs:
        for sampling in SAMPLINGS:
            rounds = options.rounds_long if name == "60 s 720p" else options.rounds
            rows.append(table_row(name, path, sampling, rounds, base))
            show(rows[-1])
    result: dict[str, Any] = {"benchmark": "decode", "rows": rows}
    result["full_path"] = {
        "Kinetics-like": full_path(kinetics, options.rounds),
        "prepared": full_path(prepared, options.rounds),
    }
    for clip, samplings in result["full_path"].items():
        for sampling, facts in samplings.items():
            print(f"full path, {clip} {sampling}: {facts}")
    if options.memory:
        part, long = folder / "part1080.mp4", folder / "ten_minutes.mp4"
        if not long.exists():
            write_clip(part, (1920, 1080), 25, 10)
            repeat_clip(part, long, 60)
        output = subprocess.run(
            [sys.executable, __file__, "--memory_of", str(long)],
            check=True,
            capture_output=True,
            text=True,
        )
        result["memory"] = json.loads(output.stdout) | {"file_mb": long.stat().st_size >> 20}
        print(f"10 minutes of 1080p: {result['memory']}")
    if options.num_clips:
        result["growth"] = growth([kinetics, files["SSv2-like"], prepared], options.num_clips)
        print(f"growth: {result['growth']}")
    packages = ("av", "torch", "torchcodec", "decord")
    return result | {
        "versions": {package: installed(package) for package in packages},
        "python": platform.python_version(),
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "load_at_start": round(load, 1),
    }


if __name__ == "__main__":
    main()
