"""A generated collection with two kinds of classes: the order of frames tells some, looks tell the
others.

Order-only classes are the pairs of `order_only`: each clip has a twin, the same frames backwards,
in the opposite class. Appearance classes are the opposite: a class is the colour of the ground, any
frame shows it, and order means nothing, exactly so, since both twins of a scene belong to the same
class. Their things look and move like those of the order-only classes, whose grounds are none of
these colours. So a model that is blind to order can be perfect on the one kind of classes and
cannot exceed 50% on the other (with the frames and for the reasons of `order_only`), in one run.

A colour is four tones of one hue in training and four others in validation. Shapes, textures and
the colours of things are those of `looks`, apart for each split.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stadapter.data.looks import LOOKS, SplitName
from stadapter.data.order_only import PAIRS, order_scenes
from stadapter.data.twins import SPLITS, TwinScene, TwinsConfig, write_twins

GENERATOR_VERSION = 1
"""Raised whenever the same config would give other bytes."""

GROUNDS: dict[str, dict[SplitName, tuple[str, ...]]] = {
    "red_ground": {
        "train": ("c81d25", "e63946", "9b1b30", "d7263d"),
        "val": ("b3001b", "f04a4a", "a61c3c", "d62828"),
    },
    "yellow_ground": {
        "train": ("f6c90e", "ffe066", "e0b000", "f9dc5c"),
        "val": ("ffd60a", "fce762", "d4a900", "f4d35e"),
    },
    "green_ground": {
        "train": ("2a9d3a", "52b788", "1b7f3b", "3fa34d"),
        "val": ("208b3a", "6ac46a", "137547", "4caf50"),
    },
    "blue_ground": {
        "train": ("1d4ed8", "3a86ff", "14359c", "2563eb"),
        "val": ("1e40af", "4895ef", "172f8a", "2f6fe0"),
    },
}
"""Class to the tones (RGB hex) of its ground in each split."""


@dataclass(frozen=True)
class TwoCuesConfig(TwinsConfig):
    """What to generate. Equal configs give equal files."""

    motions: tuple[str, ...] = tuple(PAIRS)
    """Pairs of order-only classes: horizontal, vertical, depth, turn, gate."""
    grounds: tuple[str, ...] = tuple(GROUNDS)
    """Appearance classes: red_ground, yellow_ground, green_ground, blue_ground. Their clips are
    twins, so their numbers must be even."""
    train_clips_per_ground: int | None = None
    """Clips of each appearance class under train/; None for as many as of an order-only class. They
    need fewer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("motions", tuple(PAIRS)), ("grounds", tuple(GROUNDS))):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)  # YAML gives lists
            if len(set(values)) < len(values) or not set(values) <= set(known):
                raise ValueError(f"{name} {values} must be some of {', '.join(known)}, each once.")
        if 2 * len(self.motions) + len(self.grounds) < 2:
            raise ValueError("motions and grounds together must give at least two classes.")
        for split in SPLITS:
            count = self.num_clips_per_ground(split)
            if self.grounds and (count < 2 or count % 2):
                raise ValueError(
                    f"clips of an appearance class under {split}/ ({count}) must be an even number "
                    "from 2 on: they are twins."
                )

    def num_clips_per_ground(self, split: SplitName) -> int:
        """Clips of each appearance class in a split."""
        if split == "train" and self.train_clips_per_ground is not None:
            return self.train_clips_per_ground
        return self.num_clips_per_class(split)

    @property
    def class_groups(self) -> dict[str, list[str]]:
        """Kind of classes to its classes; a kind without classes is left out."""
        order = sorted(name for motion in self.motions for name in PAIRS[motion])
        groups = {"order-only": order, "appearance": sorted(self.grounds)}
        return {kind: classes for kind, classes in groups.items() if classes}

    @property
    def num_clips(self) -> int:
        """Files of the whole collection."""
        return sum(
            2 * len(self.motions) * self.num_clips_per_class(split)
            + len(self.grounds) * self.num_clips_per_ground(split)
            for split in SPLITS
        )


def appearance_scenes(config: TwoCuesConfig) -> list[TwinScene]:
    """The scenes of the grounds; both twins belong to the same class."""
    motions = config.motions or tuple(PAIRS)
    scenes = []
    for split in SPLITS:
        for ground in config.grounds:
            look = replace(LOOKS[split], backgrounds=GROUNDS[ground][split])
            for index in range(config.num_clips_per_ground(split) // 2):
                place = (SPLITS.index(split), tuple(GROUNDS).index(ground), index)
                motion = motions[index % len(motions)]
                forward, backward = (
                    f"{split}/{ground}/scene_{split}_{ground}_{index:04d}{end}.mp4"
                    for end in ("a", "b")
                )
                # Away from the seeds of the order-only scenes, which have five numbers.
                seed = (GENERATOR_VERSION, config.seed, *place, 1)
                scenes.append(TwinScene(motion, look, seed, forward, backward))
    return scenes


def write_two_cues(
    out: Path,
    config: TwoCuesConfig = TwoCuesConfig(),
    *,
    progress: Callable[[int, int], None] | None = None,
    num_workers: int | None = None,
) -> Path:
    """Write the collection as out/train/CLASS/*.mp4 and out/val/CLASS/*.mp4, and return `out`.

    Arguments and errors as of `order_only.write_order_only`.
    """
    groups: Mapping[str, list[str]] = config.class_groups
    record = {
        "collection": "two-cues",
        "generator_version": GENERATOR_VERSION,
        "classes": sorted(name for names in groups.values() for name in names),
        "class_groups": groups,
    }
    return write_twins(
        out,
        [*order_scenes(config, config.motions), *appearance_scenes(config)],
        config,
        record=record,
        progress=progress,
        num_workers=num_workers,
    )
