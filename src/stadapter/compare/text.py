"""A comparison as text: a table for people, JSON and CSV for programs."""

import csv
import io
import json

from stadapter.compare.paired import Against, Comparison
from stadapter.compare.runs import scored_differently
from stadapter.tables import table_text

MAX_CLIPS = 5
"""Clips named in the table for people; JSON and the page name more."""


def comparison_text(comparison: Comparison, format: str) -> str:
    """As "table", "json" (everything, with clips by name) or "csv" (a line per run and number)."""
    if format == "json":
        return json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if format == "csv":
        return _csv(comparison)
    return table_text(_rows(comparison)) + "\n" + _notes(comparison)


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["run", "number", "value", "low95", "high95"]
    writer.writerow([*columns, "difference", "difference_low95", "difference_high95", "p_value"])
    for i, run in enumerate(comparison.runs):
        for name, value in comparison.numbers[i].items():
            if value is None:
                continue
            cells = [value, *(comparison.intervals[i].get(name) or [])]
            found = comparison.against[i - 1].differences.get(name) if i else None
            if found is not None:
                cells += [found.value, *found.interval95, found.p_value]
            row = [run.name, name, *(f"{cell:.6f}" for cell in cells)]
            writer.writerow(row + [""] * (9 - len(row)))
    return text.getvalue()


def _rows(comparison: Comparison) -> list[dict[str, str]]:
    headline, *others = comparison.baseline.task.numbers.items()
    rows = []
    for i, run in enumerate(comparison.runs):
        row = {"run": run.name, headline[1]: _value(comparison, i, headline[0], interval=True)}
        row |= {title: _value(comparison, i, name, interval=False) for name, title in others}
        against = comparison.against[i - 1] if i else None
        row["difference"] = against_text(against, headline[0]) if against else "(baseline)"
        rows.append(row)
    known = [key for key in rows[0] if any(row[key] != "-" for row in rows)]
    return [{key: row[key] for key in known} for row in rows]


def _value(comparison: Comparison, run: int, name: str, *, interval: bool) -> str:
    value, ends = comparison.numbers[run][name], comparison.intervals[run].get(name)
    if value is None:
        return "-"
    return f"{value:.1%}" + (f" [{ends[0]:.1%}, {ends[1]:.1%}]" if interval and ends else "")


def against_text(against: Against, name: str) -> str:
    """A difference with interval and p, for one line."""
    found = against.differences.get(name)
    if found is None:
        return "-"
    low, high = found.interval95
    return f"{points(found.value)} [{points(low)}, {points(high)}], p {found.p_value:.2g}"


def points(difference: float) -> str:
    """A difference of shares in percentage points.

    >>> points(0.0123), points(-0.5)
    ('+1.2', '-50.0')
    """
    return f"{100 * difference:+.1f}"


def _notes(comparison: Comparison) -> str:
    baseline = comparison.baseline.name
    lines = [
        f"{len(comparison.clips):,} clips; differences to {baseline} in points, with intervals and "
        f"p of {comparison.resamples:,} paired resamples (seed {comparison.seed})"
    ]
    if len(comparison.runs) > 2:
        lines.append("p is of each comparison by itself, not corrected for their number")
    lines += scored_differently(comparison.runs)
    for run, left_out in zip(comparison.runs, comparison.num_left_out, strict=True):
        if left_out:
            lines.append(f"{left_out:,} clips that {run.name} was scored on are left out")
    for run, against in zip(comparison.runs[1:], comparison.against, strict=True):
        lines.append(
            f"{run.name}: right where {baseline} is wrong on {len(against.won):,}, wrong where it "
            f"is right on {len(against.lost):,}, both right {against.both_right:,}, both wrong "
            f"{against.both_wrong:,} (McNemar's exact p {against.mcnemar_p:.2g})"
        )
        for sign, clips in (("+", against.won), ("-", against.lost)):
            lines += [f"  {sign} {comparison.clips[i]}" for i in clips[:MAX_CLIPS]]
            if len(clips) > MAX_CLIPS:
                lines.append(f"  {sign} {len(clips) - MAX_CLIPS:,} more: --format json or --out")
    return "\n".join(lines) + "\n"
