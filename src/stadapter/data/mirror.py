"""Left-right flips that keep labels true.

In a mirror "push left" becomes "push right", and what turned clockwise turns counter-clockwise. So
a flipped clip takes the label of its mirror class; a clip of a class that names a side, but whose
mirror class does not exist, is not flipped; a class that names no side mirrors itself. Whether a
clip is flipped depends on (seed, epoch, clip) alone.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Tensor

from stadapter.data.labels import LabelSpace

_OTHER_SIDE = {
    "left": "right",
    "lefts": "rights",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "leftmost": "rightmost",
    "lefthand": "righthand",
    "lefthanded": "righthanded",
    "clockwise": "counterclockwise",
    "cw": "ccw",
}
_OTHER_SIDE |= {other: word for word, other in _OTHER_SIDE.items()}
_COUNTER = ("counter", "anti", "contra")
"""counter-clockwise, anti clockwise."""
_NO_SIDE = re.compile(
    "bright.*|upright|outright|downright|forthright|alright|aright|righteous.*|rightful.*|"
    "fright.*|.*wright|copyright|birthright|leftovers?|cleft"
)
"""Words that contain a side and name none."""


def words(name: str) -> list[str]:
    """The words of a class name, in lower case; sides of turning in one spelling.

    >>> words("PushLeft"), words("turn_Counter-Clockwise 2")
    (['push', 'left'], ['turn', 'counterclockwise', '2'])
    """
    name = re.sub(r"([^\W\d_A-Z])([A-Z])", r"\1 \2", name)
    name = re.sub(r"([A-Z])([A-Z][a-z])", r"\1 \2", name)
    found: list[str] = []
    for word in re.findall(r"[^\W\d_]+|\d+", name.casefold()):
        word = re.sub("(?:anti|contra)clockwise", "counterclockwise", word)
        if word == "clockwise" and found and found[-1] in _COUNTER:
            found.pop()
            word = "counterclockwise"
        found.append(word)
    return found


def mirrored(word: str) -> str:
    """The word as it is in a mirror; also where a side is a part of it ("pushleft").

    >>> mirrored("left"), mirrored("wave"), mirrored("pushright"), mirrored("upright")
    ('right', 'wave', 'pushleft', 'upright')
    """
    if word in _OTHER_SIDE or _NO_SIDE.fullmatch(word):
        return _OTHER_SIDE.get(word, word)
    return re.sub("left|right|(?:counter)?clockwise", lambda side: _OTHER_SIDE[side[0]], word)


def mirror_classes(names: Sequence[str]) -> list[int | None]:
    """For each class the index of its mirror class: itself if it names no side, None if no class,
    or more than one, is its mirror."""
    plain = [tuple(words(name)) for name in names]
    count = Counter(plain)
    index = {name: k for k, name in enumerate(plain)}
    found: list[int | None] = []
    for k, name in enumerate(plain):
        other = tuple(map(mirrored, name))
        if other == name:
            found.append(k)
        else:
            mutual = tuple(map(mirrored, other)) == name and count[name] == count[other] == 1
            found.append(index[other] if mutual else None)
    return found


@dataclass(frozen=True)
class Mirror:
    """Flips for the classes of a label space."""

    space: LabelSpace
    swaps: bool = True
    """False flips every clip and keeps its label."""

    @cached_property
    def classes(self) -> list[list[int | None]]:
        """`mirror_classes` of each vocabulary."""
        if not self.swaps:
            return [list(range(len(names))) for names in self.space.vocabularies]
        return [mirror_classes(names) for names in self.space.vocabularies]

    @cached_property
    def table(self) -> Tensor:
        """Logit of the mirror class of each logit, int64 (K,); -1 where there is none."""
        rows, offset = [], 0
        for mirror in self.classes:
            rows += [-1 if k is None else offset + k for k in mirror]
            offset += len(mirror)
        return torch.tensor(rows)

    def flip(self, targets: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Swap the sides in the targets of the chosen clips, as far as they have a mirror.

        Args:
            targets: float (B, K), above 0 for the classes of each clip.
            chosen: bool (B,)

        Returns:
            New targets (B, K), and which clips are to be flipped, bool (B,).
        """
        table = self.table.to(targets.device)
        chosen = chosen.to(targets.device) & ~(targets[:, table < 0] > 0).any(1)
        # Mirroring goes both ways, so that taking from the mirror is putting into it.
        table = torch.where(table < 0, torch.arange(len(table), device=table.device), table)
        return torch.where(chosen[:, None], targets[:, table], targets), chosen

    def __str__(self) -> str:
        """One sentence about what is done with which classes."""
        if not self.swaps:
            return "half of the clips are mirrored left to right, labels stay"
        pairs, alone = [], []
        for names, mirror in zip(self.space.vocabularies, self.classes, strict=True):
            alone += [repr(name) for name, k in zip(names, mirror, strict=True) if k is None]
            pairs += [
                f"{names[k]!r} and {names[other]!r}"
                for k, other in enumerate(mirror)
                if other is not None and k < other
            ]
        if any(set(mirror) == {None} for mirror in self.classes):
            return "no clip is mirrored: each class names a side, and its mirror class is not there"
        text = "half of the clips are mirrored left to right"
        if pairs:
            text += f"; labels swap between {_listed(pairs)}"
        if alone:
            text += f"; never clips of {_listed(alone)}: a side whose mirror class is not there"
        return text if pairs or alone else f"{text}; no class names a side"


def flipped_clips(clips: Sequence[int], *, seed: int, epoch: int) -> Tensor:
    """Which of these clips are flipped in this epoch, each with probability 1/2, bool (B,)."""
    return torch.tensor(
        [Random(f"flip {seed}/{epoch}/{clip}").random() < 0.5 for clip in clips], dtype=torch.bool
    )


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
