"""A comparison as one self-contained HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stadapter.atomic import write_text
from stadapter.compare.paired import Against, Comparison, per_class
from stadapter.compare.runs import TEST_SETTINGS, scored_differently
from stadapter.compare.text import against_text, points
from stadapter.data.labels import VOCABULARIES
from stadapter.report.page import document, escape, note, percent, plural, table, tile
from stadapter.report.plots import interval_chart

MAX_CLIPS = 200
"""Clips listed of each kind; JSON has all."""
MAX_CLASSES = 10
"""Classes listed that gained or lost most."""
SETTINGS = (
    "split",
    *TEST_SETTINGS,
    *("seed", "selected", "num_clips", "num_broken", "clip_list_sha256", "checkpoint", "versions"),
)
"""Entries of metrics.json that say how a score came about."""


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write the page atomically and return its path.

    Raises:
        OSError: `out` cannot be written.
    """
    sections = [
        _head(comparison),
        _numbers(comparison),
        _chart(comparison),
        *(_against(comparison, i) for i in range(len(comparison.against))),
        _settings(comparison),
    ]
    write_text(out, document("stadapter: comparison of runs", "\n".join(filter(None, sections))))
    return out


def _head(comparison: Comparison) -> str:
    name, title = next(iter(comparison.baseline.task.numbers.items()))
    scores = [found[name] for found in comparison.numbers]
    highest = max((score for score in scores if score is not None), default=None)
    tiles = []
    for i, (run, score) in enumerate(zip(comparison.runs, scores, strict=True)):
        ends = comparison.intervals[i].get(name)
        lines = [f"95% interval {percent(ends[0])} to {percent(ends[1])}"] if ends else []
        lines.append(against_text(comparison.against[i - 1], name) if i else "baseline")
        value = "not defined" if score is None else percent(score)
        best = score is not None and score == highest
        tiles.append(tile(run.name, value, "<br>".join(map(escape, lines)), best=best))
    clips = plural(len(comparison.baseline.files), "clip")
    notes = [
        f"{plural(count, 'clip')} that {run.name} was scored on left out, since not all runs were."
        for run, count in zip(comparison.runs, comparison.num_left_out, strict=True)
        if count
    ]
    notes += [f"{sentence}." for sentence in scored_differently(comparison.runs)]
    return (
        f'<h1>Comparison of runs</h1><p class="lead">{escape(title)} on the same {clips}; '
        f"differences are to {escape(comparison.baseline.name)}, in percentage points.</p>"
        f'<div class="tiles">{"".join(tiles)}</div>{"".join(map(note, notes))}'
    )


def _numbers(comparison: Comparison) -> str:
    rows = []
    for name, title in comparison.baseline.task.numbers.items():
        for i, run in enumerate(comparison.runs):
            value = comparison.numbers[i][name]
            if value is not None:
                ends = comparison.intervals[i].get(name)
                interval = f"{percent(ends[0])} to {percent(ends[1])}" if ends else "-"
                cells = [escape(title), escape(run.name), percent(value), interval]
                rows.append([*cells, *_difference(comparison, i, name)])
    header = ["Number", "Run", "Value", "95% interval", "Difference", "95% interval", "p"]
    several = (
        " Each p is of one comparison by itself, not corrected for their number."
        if len(comparison.runs) > 2
        else ""
    )
    wilson = ""
    if comparison.baseline.task.exclusive:
        title = next(iter(comparison.baseline.task.numbers.values()))
        wilson = f"; the interval of {title} itself is Wilson's"
    return (
        f"<h2>Numbers</h2><p>Intervals and p are of {comparison.resamples:,} resamples of the "
        f"clips (bootstrap, seed {comparison.seed}), the same ones for all runs, so that "
        f"differences are paired{wilson}. They tell what other clips would have changed, not what "
        f"another training run would have.{several}</p>"
        f"{table(header, rows, kinds=['', '', *['num'] * 5])}"
    )


def _difference(comparison: Comparison, run: int, name: str) -> list[str]:
    found = comparison.against[run - 1].differences.get(name) if run else None
    if found is None:
        return ["", "", ""]
    low, high = found.interval95
    return [points(found.value), f"{points(low)} to {points(high)}", f"{found.p_value:.2g}"]


def _chart(comparison: Comparison) -> str:
    name, title = next(iter(comparison.baseline.task.numbers.items()))
    rows = [
        (run.name, against.differences[name].value, against.differences[name].interval95)
        for run, against in zip(comparison.runs[1:], comparison.against, strict=True)
        if name in against.differences
    ]
    if not rows:
        return ""
    caption = f"{title}, difference to {comparison.baseline.name} in points, with 95% intervals"
    return (
        f'<figure class="card apart"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="middle">{interval_chart(rows, label=caption)}</div></figure>'
    )


def _against(comparison: Comparison, index: int) -> str:
    run, against = comparison.runs[index + 1], comparison.against[index]
    baseline = escape(comparison.baseline.name)
    counts = [
        ["right", f"{against.both_right:,}", f"{len(against.won):,}"],
        ["wrong", f"{len(against.lost):,}", f"{against.both_wrong:,}"],
    ]
    header = [f"{run.name} is", f"{comparison.baseline.name} right", "wrong"]
    return (
        f"<h2>{escape(run.name)} against {baseline}</h2>"
        f"{table(header, counts, kinds=['', 'num', 'num'])}"
        f"<p>A clip is right if its whole label is. So uneven a share of "
        f"{len(against.won):,} to {len(against.lost):,} comes about by chance with p = "
        f"{against.mcnemar_p:.2g} (McNemar's exact test).</p>"
        f"{_classes(comparison, index)}{_clips(comparison, index, against)}"
    )


def _classes(comparison: Comparison, index: int) -> str:
    before, after = (per_class(comparison.runs[i]) for i in (0, index + 1))
    vocabularies = comparison.baseline.space.vocabularies
    parts = []
    for kind, names in zip(VOCABULARIES[comparison.baseline.space.task], vocabularies, strict=True):
        change = torch.nan_to_num(after[kind] - before[kind]).tolist()
        order = sorted(range(len(names)), key=change.__getitem__)
        lost = [k for k in order if change[k] < 0][:MAX_CLASSES]
        gained = [k for k in reversed(order) if change[k] > 0][:MAX_CLASSES]
        rows = [
            [
                escape(names[k]),
                percent(float(before[kind][k])),
                percent(float(after[kind][k])),
                points(change[k]),
            ]
            for k in (*gained, *reversed(lost))
        ]
        if rows:
            word = "class" if kind == "label" else kind
            score = "recall" if comparison.baseline.task.exclusive else "average precision"
            runs = (comparison.runs[0].name, comparison.runs[index + 1].name)
            box = table(
                [word.capitalize(), *runs, "Difference"], rows, kinds=["", "num", "num", "num"]
            )
            plural_ = "classes" if kind == "label" else f"{kind}s"
            parts.append(f"<h3>{plural_.capitalize()} whose {score} changed most</h3>{box}")
    return "".join(parts)


def _clips(comparison: Comparison, index: int, against: Against) -> str:
    runs = comparison.runs[0], comparison.runs[index + 1]
    parts = []
    for clips, who, whom in ((against.won, runs[1], runs[0]), (against.lost, runs[0], runs[1])):
        title = f"Right by {who.name}, wrong by {whom.name}: {plural(len(clips), 'clip')}"
        if not clips:
            parts.append(f"<h3>{escape(title)}</h3>")
            continue
        some = list(clips[:MAX_CLIPS])
        names = [comparison.clips[i] for i in some]
        taken = runs[0].take(some), runs[1].take(some)
        space, task = taken[0].space, taken[0].task
        said = [task.predict(run.probabilities).numpy() for run in taken]
        rows = [
            [
                f'<span title="{escape(taken[0].files[i][0])}">{escape(names[i])}</span>',
                escape(space.label_name(taken[0].labels[i].numpy())),
                *(escape(space.label_name(found[i]) or "no class") for found in said),
            ]
            for i in range(len(some))
        ]
        header = ["Clip", "Label", *(f"Said by {run.name}" for run in runs)]
        box = table(header, rows, kinds=[""] * 4, tall=len(rows) > 12)
        rest = len(clips) - len(some)
        more = f"<p>{rest:,} more: <code>--format json</code> names all.</p>" if rest else ""
        parts.append(f"<h3>{escape(title)}</h3>{box}{more}")
    return "".join(parts)


def _settings(comparison: Comparison) -> str:
    rows, others = [], []
    for key in SETTINGS:
        values = [_flat(run.metrics.get(key)) for run in comparison.runs]
        names = dict.fromkeys(name for value in values for name in value)
        for name in names:
            shown = [value.get(name, "-") for value in values]
            title = f"{key}.{name}" if name else key
            if len(set(shown)) > 1:
                rows.append([escape(title), *(escape(text) for text in shown)])
            elif shown[0] != "-":
                others.append(title)
    header = ["Setting", *(run.name for run in comparison.runs)]
    box = table(header, rows, kinds=["", *["wide"] * len(comparison.runs)]) if rows else ""
    same = f"<p>The same in all: {escape(', '.join(others))}.</p>" if others else ""
    return f"<h2>How the scores came about</h2>{box or '<p>No difference is known.</p>'}{same}"


def _flat(value: Any) -> dict[str, str]:
    """Text by name; the name is empty for what has no parts. Hashes are shortened."""
    if isinstance(value, Mapping):
        return {str(name): _shown(part) for name, part in value.items()}
    return {} if value is None else {"": _shown(value)}


def _shown(value: Any) -> str:
    text = " × ".join(map(str, value)) if isinstance(value, list) else str(value)
    is_hash = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_hash else text
