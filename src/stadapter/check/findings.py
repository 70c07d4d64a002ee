"""What is wrong with clips as a collection: the same content twice, leaks, labels, classes.

Content is what the decoder gave out, so a copy is found whatever its name and container. Clips of
one file that are cut at different times are different clips.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stadapter.check.clips import Clip, Clips
from stadapter.check.decode import FileFacts, Problem

PROBLEMS: dict[str, str] = {
    "missing": "there is no such file",
    "empty": "the file has no bytes",
    "unreadable": "no frame can be decoded, or training could not open the file",
    "no_video": "audio only, or no stream at all",
    "truncated": "the end of the file is missing",
    "damaged": "decoders complain, frames are marked as damaged, or a checksum is wrong",
    "lost_frames": "fewer frames come out than the file holds",
    "size_change": "the frame size changes within the video",
    "killed": "decoding it ended the process",
    "timed_out": "decoding took too long",
    "failed": "the check itself failed on it",
    "label_conflict": "the same content has another label elsewhere",
    "leak": "the same content is in another split",
    "duplicate": "the same content stands before it in its split",
    "listed_twice": "the same clip is listed before it",
}
"""Kind of a problem -> what it means; the order of summaries."""

_KEPT_FIRST = ("test", "val", "train")
"""Of splits that share a clip, the first keeps it."""

_Add = Callable[[int, str, str, bool], None]
"""Note a problem: number of the clip, kind, detail, and whether the clip should be left out."""


@dataclass(frozen=True)
class CheckedClip:
    """A clip, what its file is, and all that is wrong with it."""

    clip: Clip
    facts: FileFacts
    problems: tuple[Problem, ...]
    """Of the file first, then of the clip among the others."""
    left_out: bool
    """Whether it is in the skip list."""


@dataclass(frozen=True)
class ClassCount:
    """How many clips a class has."""

    name: str
    by_split: Mapping[str, int]
    """Split ("" where none was given) -> clips."""
    num_usable: int
    """Those that are not left out."""

    @property
    def num_clips(self) -> int:
        """In all splits."""
        return sum(self.by_split.values())


def judge(clips: Clips, facts: Mapping[str, FileFacts]) -> list[CheckedClip]:
    """Every clip with all its problems, in the order of the collection."""
    found: list[list[Problem]] = [list(facts[clip.path].problems) for clip in clips.rows]
    left_out = [bool(problems) for problems in found]

    def add(i: int, kind: str, detail: str, skip: bool) -> None:
        found[i].append(Problem(kind, detail))
        left_out[i] |= skip

    for group in _same_content(clips.rows, facts):
        _judge_group(clips.rows, group, add)
    return [
        CheckedClip(clip, facts[clip.path], tuple(problems), out)
        for clip, problems, out in zip(clips.rows, found, left_out, strict=True)
    ]


def count_classes(clips: Clips, checked: Sequence[CheckedClip]) -> list[ClassCount]:
    """Clips of each class, in the order of the classes."""
    by_class: dict[str, Counter[str]] = {name: Counter() for name in clips.class_names}
    usable: Counter[str] = Counter()
    for one in checked:
        for name in one.clip.classes:
            by_class.setdefault(name, Counter())[one.clip.split or ""] += 1
            usable[name] += not one.left_out
    return [ClassCount(name, splits, usable[name]) for name, splits in by_class.items()]


def class_faults(clips: Clips, classes: Sequence[ClassCount]) -> list[str]:
    """Classes that cannot be trained, and why the collection is refused, as sentences."""
    faults = [f"train refuses this collection: {clips.refusal}"] if clips.refusal else []
    splits = {clip.split for clip in clips.rows}
    for one in classes:
        if not one.num_clips:
            faults.append(f"class {one.name!r} has no clips")
        elif "train" in splits and not one.by_split.get("train"):
            faults.append(f"class {one.name!r} has no clips in train")
        elif not one.num_usable:
            faults.append(f"class {one.name!r} has no clip that can be used")
    return faults


def _same_content(rows: Sequence[Clip], facts: Mapping[str, FileFacts]) -> list[list[int]]:
    """Numbers of clips whose files show the same, in order, wherever there are two or more."""
    groups: dict[str, list[int]] = {}
    for i, clip in enumerate(rows):
        groups.setdefault(facts[clip.path].content or f"file {clip.path}", []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _judge_group(rows: Sequence[Clip], group: Sequence[int], add: _Add) -> None:
    by_time: dict[tuple[float, float], list[int]] = {}
    for i in group:
        by_time.setdefault((rows[i].start, rows[i].end), []).append(i)
    for same in by_time.values():
        _judge_labels(rows, same, add)
    _judge_splits(rows, group, add)
    for same in by_time.values():
        _judge_copies(rows, same, add)


def _judge_labels(rows: Sequence[Clip], same: Sequence[int], add: _Add) -> None:
    for i in same:
        other = next((rows[j] for j in same if rows[j].label != rows[i].label), None)
        if other is not None:
            add(i, "label_conflict", f"{_name(other)} is {other.label!r}", True)


def _judge_splits(rows: Sequence[Clip], group: Sequence[int], add: _Add) -> None:
    """Clips of one content that overlap in time and are in different splits."""
    for i in group:
        clip = rows[i]
        others = [
            other
            for other in (rows[j] for j in group)
            if other.split != clip.split and other.start < clip.end and clip.start < other.end
        ]
        if others:
            keeper = next(s for s in _KEPT_FIRST if s in {clip.split, *(o.split for o in others)})
            detail = f"{_name(others[0])} is in {others[0].split}"
            add(i, "leak", detail, clip.split != keeper)


def _judge_copies(rows: Sequence[Clip], same: Sequence[int], add: _Add) -> None:
    first_of: dict[str | None, Clip] = {}
    for i in same:
        clip = rows[i]
        if clip.split not in first_of:
            first_of[clip.split] = clip
            continue
        first = first_of[clip.split]
        if first.path == clip.path:
            # A skip list names files: it cannot keep the one and leave the other out.
            add(i, "listed_twice", "it is listed before", False)
        else:
            add(i, "duplicate", f"the same as {_name(first)}", True)


def _name(clip: Clip) -> str:
    """The end of a path, enough to find it."""
    return "/".join(Path(clip.path).parts[-3:])
