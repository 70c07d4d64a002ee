"""A generated collection of real video files in which only the order of the frames tells the class.

Ten classes in five pairs, each the other played backwards:

    horizontal  move_right       move_left
    vertical    move_down        move_up
    depth       approach         retreat
    turn        turn_clockwise   turn_counterclockwise
    gate        open             close

The guarantee. Clips come in *twins*. Each scene is rendered once and encoded once, with every frame
an intra frame on its own (one quantiser, no prediction from another frame). The packets are then
written forwards into a file of one class and backwards into a file of the other. So the twins hold
the same compressed pictures, byte for byte, and frame i of one decodes to exactly frame N - 1 - i
of the other. Nothing else can tell them apart: place, size, speed, colour and file size are equal.

A model which is blind to order gives both twins the same answer, one of which is wrong. It cannot
exceed 50%, *provided it is shown the same frames of both*. The centres of T equal segments,
floor((2i + 1) N / (2T)), mirror under reversal exactly if none of the (2i + 1) N / (2T) is whole.
With N = 2 mod 4 (30, 34, 38 or 42 frames here) that holds for T = 2, 4, 8, 16 and 32. Worked for
N = 30, T = 4: the centres 3.75, 11.25, 18.75, 26.25 give frames 3, 11, 18, 26; reversed, 29 - i
gives 26, 18, 11, 3. For T = 1 no centre frame exists and the sampler must take a side.

Two consequences for training. A horizontal flip of the picture turns four of the classes into
their partners, so it must be off. And twins share a scene: keep files of one name (`scene_...mp4`)
on one side when you split a folder further.

A kill leaves `unfinished.json`; the next call with the same config goes on with what is missing.
`collection.json` is written last. Equal configs give equal bytes, whatever the number of workers,
with the same versions of numpy, PyAV and its FFmpeg.
"""

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from numpy.typing import NDArray

from stadapter.data.looks import LOOKS, SplitName
from stadapter.data.scenes import render_scene

GENERATOR_VERSION = 2
"""Raised whenever the same config would give other bytes."""

PAIRS: dict[str, tuple[str, str]] = {
    "horizontal": ("move_right", "move_left"),
    "vertical": ("move_down", "move_up"),
    "depth": ("approach", "retreat"),
    "turn": ("turn_clockwise", "turn_counterclockwise"),
    "gate": ("open", "close"),
}
"""Motion of a scene to its two classes: as rendered, and played backwards."""

CLASSES: tuple[str, ...] = tuple(sorted(name for pair in PAIRS.values() for name in pair))

SPLITS: tuple[SplitName, ...] = get_args(SplitName)

NUM_FRAMES = (30, 34, 38, 42)
"""Frames of a clip, each 2 mod 4: see the module docstring."""

_RECORD = "collection.json"
_UNFINISHED = "unfinished.json"


@dataclass(frozen=True)
class OrderOnlyConfig:
    """What to generate. Equal configs give equal files."""

    train_clips_per_class: int = 40
    """Clips of each of the ten classes under train/."""
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

    @property
    def num_clips(self) -> int:
        """Files of the whole collection."""
        return len(CLASSES) * (self.train_clips_per_class + self.val_clips_per_class)


@dataclass(frozen=True)
class _Scene:
    """One scene: what it is seeded by, and where its twins belong."""

    split: SplitName
    motion: str
    index: int

    def paths(self, out: Path) -> tuple[Path, Path]:
        """The files which play it as rendered and backwards."""
        name = f"scene_{self.split}_{self.motion}_{self.index:04d}.mp4"
        forward, backward = PAIRS[self.motion]
        return out / self.split / forward / name, out / self.split / backward / name

    def render(self, config: OrderOnlyConfig) -> NDArray[np.uint8]:
        # Not from the scene's place in a list: a larger collection keeps the scenes of a smaller.
        place = (SPLITS.index(self.split), tuple(PAIRS).index(self.motion), self.index)
        rng = np.random.default_rng((GENERATOR_VERSION, config.seed, *place))
        return render_scene(
            self.motion,
            LOOKS[self.split],
            rng,
            num_frames=int(rng.choice(NUM_FRAMES)),
            width=config.width,
            height=config.height,
        )


def _scenes(config: OrderOnlyConfig) -> Iterator[_Scene]:
    counts = {"train": config.train_clips_per_class, "val": config.val_clips_per_class}
    for split in SPLITS:
        for motion in PAIRS:
            # A scene gives one clip to each class of its pair.
            yield from (_Scene(split, motion, index) for index in range(counts[split]))


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


def _write_twins(scene: _Scene, *, out: Path, config: OrderOnlyConfig) -> None:
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
    scenes: list[_Scene], write: Callable[[_Scene], None], num_workers: int
) -> Iterator[None]:
    """Write the scenes, yielding after each."""
    if num_workers < 2 or len(scenes) < 2:
        yield from map(write, scenes)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(scenes)), mp_context=spawn) as pool:
        yield from pool.map(write, scenes, chunksize=4)


# -- the collection --------------------------------------------------------------------------------


def _record(config: OrderOnlyConfig) -> dict[str, object]:
    return {
        "collection": "order-only",
        "generator_version": GENERATOR_VERSION,
        "config": asdict(config),
        "num_clips": config.num_clips,
        "classes": list(CLASSES),
    }


def _check_place(out: Path, record: dict[str, object]) -> None:
    """Refuse a place which holds anything but this very collection, whole or in part."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder which is empty or does not exist.")
    records = [out / name for name in (_RECORD, _UNFINISHED) if (out / name).exists()]
    if not records and any(out.iterdir()):
        raise FileExistsError(
            f"{out} is not empty and holds no order-only collection; name an empty or new folder."
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


def _difference(found: object, wanted: dict[str, object]) -> str:
    """What the two records differ in, as 'seed=1 there, seed=0 wanted'."""

    def flat(record: object) -> dict[str, object]:
        fields = dict(record) if isinstance(record, dict) else {}
        inner = fields.pop("config", None)
        return {**(inner if isinstance(inner, dict) else {}), **fields}

    there, here = flat(found), flat(wanted)
    for name, value in here.items():
        if there.get(name) != value:
            return f"{name}={there.get(name)} there, {name}={value} wanted"
    return "its record has fields unknown to this version"


def _save(path: Path, record: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def write_order_only(
    out: Path,
    config: OrderOnlyConfig = OrderOnlyConfig(),
    *,
    progress: Callable[[int, int], None] | None = None,
    num_workers: int | None = None,
) -> Path:
    """Write the collection as out/train/CLASS/*.mp4 and out/val/CLASS/*.mp4, and return `out`.

    `progress` is called with (clips there, clips in all), at once and after each pair of twins.
    `num_workers` above 1 starts so many processes, for which a script needs the usual
    `if __name__ == "__main__"`; None, 0 and 1 work in this process (about a minute for 600 clips).

    A collection of the same config is left as it is, but for files which are missing. Anything
    else in `out` raises FileExistsError.
    """
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers ({num_workers}) must be 0 or more.")
    record = _record(config)
    _check_place(out, record)
    missing = [s for s in _scenes(config) if not all(path.exists() for path in s.paths(out))]
    if (out / _RECORD).exists() and not missing:
        return out

    out.mkdir(parents=True, exist_ok=True)
    _save(out / _UNFINISHED, record)
    (out / _RECORD).unlink(missing_ok=True)
    write = partial(_write_twins, out=out, config=config)
    num_there = config.num_clips - 2 * len(missing)
    _report(progress, num_there, config.num_clips)
    for _ in _write_all(missing, write, num_workers or 1):
        num_there += 2
        _report(progress, num_there, config.num_clips)
    (out / _UNFINISHED).replace(out / _RECORD)
    return out


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
