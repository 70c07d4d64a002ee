"""Clips that tell something: one of each class, the worst and the best."""

from collections.abc import Sequence
from pathlib import Path

from stadapter.report.frames import Frames
from stadapter.report.page import NOTE, escape, percent, plural
from stadapter.report.record import RunRecord, ScoredClip, best_run

MAX_EXAMPLES = 24
"""Classes of which a clip is shown."""
MAX_WORST = 12
"""Wrong clips shown of each run."""
MAX_BEST = 6
"""Right clips shown of each run."""


def class_examples(group: Sequence[RunRecord], frames: Frames) -> str:
    """A clip of each class as the best run saw it: the first correct one, not the surest."""
    run = best_run(group)
    by_class: dict[str, ScoredClip] = {}
    for clip in sorted(run.clips, key=lambda clip: not clip.correct):
        classes = run.space.split_label_name(clip.label)
        for name in classes[:1] if run.task.exclusive else classes:  # of a pair, the verb
            by_class.setdefault(name, clip)
    names = [name for name in run.space.vocabularies[0] if name in by_class]
    if not names:
        return ""
    shown = names[:MAX_EXAMPLES]
    strips, why = _or_one_note([frames.strip(run, by_class[name]) for name in shown])
    items = [
        _example(by_class[name], strip, title=name)
        for name, strip in zip(shown, strips, strict=True)
    ]
    left_out = len(names) - MAX_EXAMPLES
    more = f" {plural(left_out, 'more class', 'more classes')} left out." if left_out > 0 else ""
    by = f" by {escape(run.name)}" if len(group) > 1 else ""
    return (
        "<h2>What the model sees</h2><p>The first clip of each class that was classified correctly"
        f"{by} (any clip where there is none), at the resolution, crop and frames of the test."
        f'{more}</p>{why}<ul class="clips">{"".join(items)}</ul>'
    )


def worst_and_best(run: RunRecord, frames: Frames) -> str:
    """Wrong clips, the lowest probability of the true label first; right clips, the highest."""
    if not run.clips:
        return ""
    right = [clip for clip in run.clips if clip.correct]
    wrong = [clip for clip in run.clips if not clip.correct]
    wrong.sort(key=lambda clip: (clip.label_score, clip.path))
    right.sort(key=lambda clip: (-clip.label_score, clip.path))
    if wrong:
        shown = f"{MAX_WORST} of " if len(wrong) > MAX_WORST else ""
        worst = (
            f"<p>{shown}{plural(len(wrong), 'misclassified clip')}, the lowest probability of the "
            f"true label first.</p>{_thumbs(run, wrong[:MAX_WORST], frames)}"
        )
    else:
        worst = "<p>Every clip was classified correctly.</p>"
    if right:
        shown = f"{MAX_BEST} of " if len(right) > MAX_BEST else ""
        best = (
            f"<p>{shown}{plural(len(right), 'correct clip')}, the highest probability first.</p>"
            f"{_thumbs(run, right[:MAX_BEST], frames)}"
        )
    else:
        best = "<p>No clip was classified correctly.</p>"
    return f"<h3>Worst clips</h3>{worst}<h3>Best clips</h3>{best}"


def _thumbs(run: RunRecord, clips: Sequence[ScoredClip], frames: Frames) -> str:
    items = []
    pictures, why = _or_one_note([frames.animation(run, clip) for clip in clips])
    for clip, picture in zip(clips, pictures, strict=True):
        said = f"predicted {escape(clip.prediction or 'no class')} at {percent(clip.score)}<br>"
        items.append(
            f'<li>{picture}<div class="what">'
            f"<b>{escape(clip.label or 'no class')}</b> at {percent(clip.label_score)}<br>"
            f"{'' if clip.correct else said}{_file(clip)}</div></li>"
        )
    return f'{why}<ul class="thumbs">{"".join(items)}</ul>'


def _or_one_note(pictures: list[str]) -> tuple[list[str], str]:
    """Nothing and one note where several pictures are all the same one."""
    if len(pictures) > 1 and len(set(pictures)) == 1 and pictures[0].startswith(NOTE):
        return [""] * len(pictures), pictures[0]
    return pictures, ""


def _example(clip: ScoredClip, strip: str, *, title: str) -> str:
    whole = "" if clip.label == title else f"{escape(clip.label)}<br>"
    wrong = "" if clip.correct else f"predicted {escape(clip.prediction or 'no class')}<br>"
    what = f"<b>{escape(title)}</b><br>{whole}{wrong}{_file(clip)}"
    return f'<li><div class="what">{what}</div>{strip}</li>'


def _file(clip: ScoredClip) -> str:
    window = ""
    if clip.window:
        ends = ("start" if clip.start is None else f"{clip.start:g} s", "end")
        end = ends[1] if clip.end is None else f"{clip.end:g} s"
        window = f", {ends[0]} to {end}"
    name = escape(Path(clip.path).name)
    return f'<span class="small" title="{escape(clip.path)}">{name}{window}</span>'
