"""Clips in twins: one scene written forwards into one file and backwards into another.

Each scene is rendered once and encoded once, with every frame an intra frame on its own (one
quantiser, no prediction from another frame). The packets are then written forwards into a file of
one class and backwards into a file of a class that may be another or the same. So the twins hold
the same compressed pictures, byte for byte, and frame i of one decodes to exactly frame N - 1 - i
of the other. Nothing else can tell them apart: place, size, speed, colour and file size are equal.

A kill leaves `unfinished.json`; the next call with the same config goes on with what is missing.
`collection.json` is written last. Equal configs give equal bytes, whatever the number of workers,
with the same versions of numpy, PyAV and its FFmpeg.
"""

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from numpy.typing import NDArray

from stadapter.data.looks import Look, SplitName
from stadapter.data.scenes import render_scene

SPLITS: tuple[SplitName, ...] = get_args(SplitName)

NUM_FRAMES = (30, 34, 38, 42)
"""Frames of a clip, each 2 mod 4: see `order_only`."""

_RECORD = "collection.json"
_UNFINISHED = "unfinished.json"


@dataclass(frozen=True)
class TwinsConfig:
    """What every generated collection can be told. Equal configs give equal files."""

    train_clips_per_class: int = 40
    """Clips of each class under train/."""
    val_clips_per_class: int = 20
    """Clips of each class under val/, with shapes, textures and colours that train/ never shows."""
    seed: int = 0
    """Another seed gives other scenes. Raising the clip counts keeps the scenes it had."""
    width: int = 112
    """Width of the frames in pixels, even."""
    height: int = 96
    """Height of the frames in pixels, even."""
    fps: int = 15
    """Frames per second: with 30 to 42 frames, clips last 2 to 2.8 seconds at 15."""
    quantiser: int = 24
    """H.264 quantiser of every frame, 1 (finest) to 51 (coarsest)."""

    def __post_init__(self) -> None:
        bounds = {
            "train_clips_per_class": (1, 9999),
            "val_clips_per_class": (1, 9999),
            "seed": (0, 2**32 - 1),
            "width": (64, 1024),
            "height": (64, 1024),
            "fps": (1, 120),
            "quantiser": (1, 51),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} ({value}) must be from {least} to {most}.")
        for name in ("width", "height"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} ({getattr(self, name)}) must be even: H.264 halves it.")

    def num_clips_per_class(self, split: SplitName) -> int:
        """Clips of each class in a split."""
        return {"train": self.train_clips_per_class, "val": self.val_clips_per_class}[split]


@dataclass(frozen=True)
class TwinScene:
    """One scene: what is drawn, what it is seeded by, and the two files that play it."""

    motion: str
    """Of `scenes.MOTIONS`."""
    look: Look
    """What it may show."""
    seed: tuple[int, ...]
    """Of everything that is drawn at random."""
    forward: str
    """The file that plays it as rendered, within the collection."""
    backward: str
    """The file that plays it from its end."""

    def paths(self, out: Path) -> tuple[Path, Path]:
        """The files which play it as rendered and backwards."""
        return out / self.forward, out / self.backward

    def render(self, config: TwinsConfig) -> NDArray[np.uint8]:
        """Frames (T, H, W, 3), RGB."""
        rng = np.random.default_rng(self.seed)
        return render_scene(
            self.motion,
            self.look,
            rng,
            num_frames=int(rng.choice(NUM_FRAMES)),
            width=config.width,
            height=config.height,
        )


# -- files -----------------------------------------------------------------------------------------


def _encode(frames: NDArray[np.uint8], *, fps: int, quantiser: int) -> io.BytesIO:
    """Frames (T, H, W, 3), RGB, to an MP4 in memory of which every frame stands alone."""
    alone = "keyint=1:scenecut=0:bframes=0:threads=1:lookahead-threads=1"
    even = "ipratio=1:aq-mode=0"  # One quantiser for every block of every frame.
    options = {"preset": "fast", "qp": str(quantiser), "x264-params": f"{alone}:{even}"}
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return memory


def _write_packets(encoded: io.BytesIO, path: Path, *, backwards: bool) -> None:
    """Copy the compressed frames to a file, in their order or the opposite."""
    encoded.seek(0)
    # Bit-exact: no encoder versions or dates in the header.
    bare = {"fflags": "+bitexact"}
    with av.open(encoded) as source, av.open(path, "w", format="mp4", options=bare) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        # x264 signs the first frame with a note (NAL unit type 6); at the end it would tell.
        unsigned = BitStreamFilterContext("filter_units=remove_types=6", stream)
        packets = [p for packet in source.demux(stream) for p in unsigned.filter(packet)]
        times = [(packet.pts, packet.dts, packet.duration) for packet in packets]
        ordered = packets[::-1] if backwards else packets
        for packet, (pts, dts, duration) in zip(ordered, times, strict=True):
            packet.pts, packet.dts, packet.duration, packet.stream = pts, dts, duration, copy
            target.mux(packet)


def _write_twins(scene: TwinScene, *, out: Path, config: TwinsConfig) -> None:
    """Render and encode a scene, and write both files whole or not at all."""
    encoded = _encode(scene.render(config), fps=config.fps, quantiser=config.quantiser)
    paths = scene.paths(out)
    parts = [path.with_suffix(".part") for path in paths]
    for part, backwards in zip(parts, (False, True), strict=True):
        part.parent.mkdir(parents=True, exist_ok=True)
        _write_packets(encoded, part, backwards=backwards)
    for part, path in zip(parts, paths, strict=True):
        part.replace(path)


def _write_all(
    scenes: list[TwinScene], write: Callable[[TwinScene], None], num_workers: int
) -> Iterator[None]:
    """Write the scenes, yielding after each."""
    if num_workers < 2 or len(scenes) < 2:
        yield from map(write, scenes)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(scenes)), mp_context=spawn) as pool:
        yield from pool.map(write, scenes, chunksize=4)


# -- the collection --------------------------------------------------------------------------------


def _check_place(out: Path, record: dict[str, Any]) -> None:
    """Refuse a place which holds anything but this very collection, whole or in part."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder which is empty or does not exist.")
    records = [out / name for name in (_RECORD, _UNFINISHED) if (out / name).exists()]
    if not records and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty and holds no {record['collection']} collection; "
            "name an empty or new folder."
        )
    for path in records:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FileExistsError(f"{path} is not JSON; delete {out} or name another.") from error
        if found != record:
            raise FileExistsError(
                f"{out} holds another collection: {_difference(found, record)}; "
                f"delete that folder or name another."
            )


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """What the two records differ in, as 'seed=1 there, seed=0 wanted'."""

    def flat(record: Any) -> dict[str, Any]:
        fields = dict(record) if isinstance(record, dict) else {}
        inner = fields.pop("config", None)
        return {**(inner if isinstance(inner, dict) else {}), **fields}

    there, here = flat(found), flat(wanted)
    for name, value in here.items():
        if there.get(name) != value:
            return f"{name}={there.get(name)} there, {name}={value} wanted"
    return "its record has fields unknown to this version"


def _save(path: Path, record: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def write_twins(
    out: Path,
    scenes: Sequence[TwinScene],
    config: TwinsConfig,
    *,
    record: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
    num_workers: int | None = None,
) -> Path:
    """Write two files for each scene, whole or not at all, and return `out`.

    `record` says which collection it is: its name (`collection`), version and classes; the config
    is added. Arguments and errors otherwise as of `write_order_only`.
    """
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers ({num_workers}) must be 0 or more.")
    num_clips = 2 * len(scenes)
    # As JSON has it, to be compared with what a folder holds.
    record = json.loads(json.dumps({**record, "config": asdict(config), "num_clips": num_clips}))
    _check_place(out, record)
    missing = [scene for scene in scenes if not all(path.exists() for path in scene.paths(out))]
    if (out / _RECORD).exists() and not missing:
        return out

    out.mkdir(parents=True, exist_ok=True)
    _save(out / _UNFINISHED, record)
    (out / _RECORD).unlink(missing_ok=True)
    write = partial(_write_twins, out=out, config=config)
    num_there = num_clips - 2 * len(missing)
    _report(progress, num_there, num_clips)
    for _ in _write_all(missing, write, num_workers or 1):
        num_there += 2
        _report(progress, num_there, num_clips)
    (out / _UNFINISHED).replace(out / _RECORD)
    return out


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
