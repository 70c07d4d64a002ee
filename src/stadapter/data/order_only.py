"""A generated collection of real video files in which only the order of the frames tells the class.

Ten classes in five pairs, each the other played backwards:

    horizontal  move_right       move_left
    vertical    move_down        move_up
    depth       approach         retreat
    turn        turn_clockwise   turn_counterclockwise
    gate        open             close

The guarantee. Clips come in *twins* (`twins.py`): the same compressed pictures, byte for byte,
forwards in a file of one class and backwards in a file of the other.

A model which is blind to order gives both twins the same answer, one of which is wrong. It cannot
exceed 50%, *provided it is shown the same frames of both*. The centres of T equal segments,
floor((2i + 1) N / (2T)), mirror under reversal exactly if none of the (2i + 1) N / (2T) is whole.
With N = 2 mod 4 (30, 34, 38 or 42 frames here) that holds for T = 2, 4, 8, 16 and 32. Worked for
N = 30, T = 4: the centres 3.75, 11.25, 18.75, 26.25 give frames 3, 11, 18, 26; reversed, 29 - i
gives 26, 18, 11, 3. For T = 1 no centre frame exists and the sampler must take a side.

Two consequences for training. A horizontal flip of the picture turns four of the classes into
their partners, so it must be off. And twins share a scene: keep files of one name (`scene_...mp4`)
on one side when you split a folder further.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stadapter.data.looks import LOOKS
from stadapter.data.twins import NUM_FRAMES, SPLITS, TwinScene, TwinsConfig, write_twins

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


@dataclass(frozen=True)
class OrderOnlyConfig(TwinsConfig):
    """What to generate. Equal configs give equal files."""

    @property
    def num_clips(self) -> int:
        """Files of the whole collection."""
        return len(CLASSES) * (self.train_clips_per_class + self.val_clips_per_class)


def order_scenes(config: TwinsConfig, motions: tuple[str, ...] = tuple(PAIRS)) -> list[TwinScene]:
    """The scenes of the pairs of these motions; each gives a clip to both classes of its pair."""
    scenes = []
    for split in SPLITS:
        for motion in motions:
            for index in range(config.num_clips_per_class(split)):
                # Not from the scene's place in a list: a larger collection keeps the scenes of a
                # smaller.
                place = (SPLITS.index(split), tuple(PAIRS).index(motion), index)
                name = f"scene_{split}_{motion}_{index:04d}.mp4"
                forward, backward = (f"{split}/{class_}/{name}" for class_ in PAIRS[motion])
                seed = (GENERATOR_VERSION, config.seed, *place)
                scenes.append(TwinScene(motion, LOOKS[split], seed, forward, backward))
    return scenes


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
    record = {
        "collection": "order-only",
        "generator_version": GENERATOR_VERSION,
        "classes": list(CLASSES),
    }
    return write_twins(
        out,
        order_scenes(config),
        config,
        record=record,
        progress=progress,
        num_workers=num_workers,
    )


__all__ = ["CLASSES", "NUM_FRAMES", "PAIRS", "OrderOnlyConfig", "order_scenes", "write_order_only"]
