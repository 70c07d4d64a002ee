"""The result of a check as one HTML page: counts, clips with problems, classes, kinds of files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from stadapter.check.findings import PROBLEMS, CheckedClip, ClassCount
from stadapter.report.frames import frame_strip
from stadapter.report.page import (
    bar,
    document,
    duration,
    escape,
    facts,
    note,
    plural,
    size,
    table,
    tile,
)

MAX_PROBLEMS = 100
"""Clips with problems that are shown; all are in check.csv."""
MAX_EXAMPLES = 24
"""Classes of which a clip is shown."""
_MAX_VALUES = 6
"""Values of a fact that are listed, the most frequent ones."""
_UNSHOWABLE = frozenset({"missing", "empty", "no_video", "killed", "timed_out", "failed"})

Strips = Mapping[str, Sequence[NDArray[np.uint8]]]
"""Path -> some of its frames, uint8 (H, W, 3) each; none where nothing can be decoded."""


def clips_shown(clips: Sequence[CheckedClip]) -> list[str]:
    """Files of which the page shows frames, each once."""
    shown = [*_with_problems(clips)[:MAX_PROBLEMS], *_examples(clips)]
    return list(
        dict.fromkeys(
            one.clip.path
            for one in shown
            if not any(problem.kind in _UNSHOWABLE for problem in one.problems)
        )
    )


def check_page(
    title: str,
    clips: Sequence[CheckedClip],
    classes: Sequence[ClassCount],
    faults: Sequence[str],
    counts: Mapping[str, int],
    strips: Strips,
) -> str:
    """The whole page.

    Args:
        title: the collection.
        clips: all of them.
        classes: how many clips each class has.
        faults: what is wrong with the collection as a whole.
        counts: kind of problem -> clips.
        strips: frames of the clips that `clips_shown` names.
    """
    sections = [
        _head(title, clips, counts),
        "".join(note(fault) for fault in faults),
        _problem_table(counts),
        _problem_clips(clips, strips),
        _class_table(classes),
        _file_facts(clips),
        _class_examples(clips, strips),
    ]
    return document(f"stadapter check: {title}", "\n".join(s for s in sections if s))


def _with_problems(clips: Sequence[CheckedClip]) -> list[CheckedClip]:
    return [one for one in clips if one.problems]


def _examples(clips: Sequence[CheckedClip]) -> list[CheckedClip]:
    """The first clip without problems of each class."""
    first: dict[str | None, CheckedClip] = {}
    for one in clips:
        if not one.problems:
            first.setdefault(one.clip.label, one)
    return list(first.values())[:MAX_EXAMPLES]


def _head(title: str, clips: Sequence[CheckedClip], counts: Mapping[str, int]) -> str:
    bad = len(_with_problems(clips))
    left_out = sum(one.left_out for one in clips)
    files = {one.clip.path: one.facts for one in clips}.values()
    seconds = sum(one.duration_seconds or 0 for one in files)
    in_bytes = sum(one.bytes or 0 for one in files)
    splits = Counter(one.clip.split for one in clips if one.clip.split is not None)
    by_split = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    tiles = [
        tile("Clips", f"{len(clips):,}", escape(by_split or plural(len(files), "file"))),
        tile("With problems", f"{bad:,}", plural(len(counts), "kind"), best=bad == 0),
        tile("Left out by skip.csv", f"{left_out:,}", "train --skip_list skip.csv"),
        tile("Together", duration(seconds), size(in_bytes)),
    ]
    return (
        f'<h1>Check of {escape(title)}</h1>\n<p class="lead">Every file was decoded from end to '
        f'end.</p>\n<div class="tiles">{"".join(tiles)}</div>'
    )


def _problem_table(counts: Mapping[str, int]) -> str:
    if not counts:
        return "<h2>Problems</h2><p>No clip has a problem.</p>"
    rows = [
        [escape(kind.replace("_", " ")), f"{counts[kind]:,}", escape(meaning)]
        for kind, meaning in PROBLEMS.items()
        if counts.get(kind)
    ]
    return "<h2>Problems</h2>" + table(
        ["Problem", "Clips", "Meaning"], rows, kinds=["", "num", "wide"]
    )


def _problem_clips(clips: Sequence[CheckedClip], strips: Strips) -> str:
    bad = _with_problems(clips)
    if not bad:
        return ""
    shown = bad[:MAX_PROBLEMS]
    more = f" The first {len(shown):,} of {len(bad):,}; check.csv has all." if bad != shown else ""
    items = []
    for one in shown:
        lines = [
            f"<b>{escape(problem.kind.replace('_', ' '))}</b>: {escape(problem.detail)}"
            for problem in one.problems
        ]
        where = [escape(x) for x in (one.clip.label, one.clip.split) if x is not None]
        items.append(
            _item(one, "<br>".join([*lines, *([", ".join(where)] if where else [])]), strips)
        )
    return (
        f"<h2>Clips with problems</h2><p>In the order of the collection, with frames as a player "
        f'shows them.{more}</p><ul class="clips">{"".join(items)}</ul>'
    )


def _class_examples(clips: Sequence[CheckedClip], strips: Strips) -> str:
    examples = _examples(clips)
    if not examples:
        return ""
    items = [_item(one, f"<b>{escape(one.clip.label or '')}</b>", strips) for one in examples]
    return (
        "<h2>Sound clips</h2><p>The first of each class"
        f"{f', {MAX_EXAMPLES} classes at most' if len(examples) == MAX_EXAMPLES else ''}.</p>"
        f'<ul class="clips">{"".join(items)}</ul>'
    )


def _item(one: CheckedClip, what: str, strips: Strips) -> str:
    path = one.clip.path
    file = f'<span class="small" title="{escape(path)}">{escape(Path(path).name)}</span>'
    frames = [torch.from_numpy(frame).permute(2, 0, 1) for frame in strips.get(path, ())]
    picture = frame_strip(frames) if frames else note("No frame can be shown.")
    return f'<li><div class="what">{what}<br>{file}</div>{picture}</li>'


def _class_table(classes: Sequence[ClassCount]) -> str:
    if not classes:
        return ""
    total = sum(one.num_clips for one in classes) or 1
    splits = list(dict.fromkeys(split for one in classes for split in one.by_split if split))
    rows = [
        [
            escape(one.name),
            *(f"{one.by_split.get(split, 0):,}" for split in splits),
            f"{one.num_clips:,}",
            f"{one.num_usable:,}",
            bar(one.num_clips / total),
        ]
        for one in classes
    ]
    return "<h2>Classes</h2>" + table(
        ["Class", *splits, "Clips", "Usable", "Share"],
        rows,
        kinds=["wide", *("num" for _ in splits), "num", "num", "bar"],
        tall=len(rows) > 20,
    )


def _file_facts(clips: Sequence[CheckedClip]) -> str:
    files = list({one.clip.path: one.facts for one in clips}.values())
    read = [one for one in files if one.frames_decoded]
    if not read:
        return ""
    sizes = Counter(f"{one.width} x {one.height}" for one in read)
    seconds = [one.duration_seconds for one in read if one.duration_seconds is not None]
    frames = [one.frames_decoded for one in read]
    entries = [
        ("Codec", _frequent(Counter(one.codec or "?" for one in read))),
        ("Container", _frequent(Counter((one.container or "?").split(",")[0] for one in read))),
        ("Frame size", _frequent(sizes)),
        ("Frames per second", _frequent(Counter(f"{one.fps or 0:.4g}" for one in read))),
        ("Variable rate", plural(sum(bool(one.variable_rate) for one in read), "file")),
        ("Rotated", plural(sum(bool(one.rotation) for one in read), "file")),
        ("With audio", plural(sum(bool(one.audio) for one in read), "file")),
        ("Frames", f"{min(frames):,} to {max(frames):,}, median {median(frames):,.0f}"),
    ]
    if seconds:
        spread = f"{duration(min(seconds))} to {duration(max(seconds))}"
        entries.append(("Duration", f"{spread}, median {duration(median(seconds))}"))
    return f"<h2>Files</h2>{facts(entries)}"


def _frequent(counts: Counter[str]) -> str:
    """The most frequent values with their counts, as HTML."""
    lines = [f"{escape(value)}: {count:,}" for value, count in counts.most_common(_MAX_VALUES)]
    if len(counts) > _MAX_VALUES:
        lines.append(f"and {len(counts) - _MAX_VALUES:,} more")
    return "<br>".join(lines)
