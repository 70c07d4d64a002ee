"""One run's numbers and how far they can be believed: intervals, calibration, parts of clips."""

from collections.abc import Mapping, Sequence
from typing import Any

from stadapter.metrics.calibration import TEMPERATURES
from stadapter.report.page import bar, escape, percent, table
from stadapter.report.plots import Bins, reliability_chart
from stadapter.report.record import RunRecord, number


def numbers_table(run: RunRecord) -> str:
    """Every number with its bootstrap interval, and what the middle view alone would give."""
    bootstrap, single = (_mapping(run.metrics.get(key)) for key in ("bootstrap", "single_view"))
    intervals = _mapping(bootstrap.get("interval95"))
    if not intervals and not single:
        return ""
    rows = []
    for key, title in run.task.numbers.items():
        value = number(run.metrics.get(key))
        if value is not None:
            wilson = run.metrics.get(f"{key}_interval95")
            cells = [percent(value), _ends(wilson or intervals.get(key))]
            if single:
                alone = number(single.get(key))
                cells.append("-" if alone is None else percent(alone))
            rows.append([escape(title), *cells])
    if not rows:
        return ""
    header = ["Number", "Value", "95% interval", *(["One view"] if single else [])]
    resamples = number(bootstrap.get("resamples")) or 0
    text = f"Intervals are of {resamples:,.0f} resamples of the clips (bootstrap)"
    text += f"; of {run.headline[1]}, Wilson's." if run.task.exclusive else "."
    if single:
        text += " One view: the middle clip, centre crop, instead of the mean over all views."
    return (
        f"<h3>Numbers</h3><p>{text}</p>"
        f"{table(header, rows, kinds=['', *['num'] * (len(header) - 1)])}"
    )


def calibration_section(run: RunRecord) -> str:
    """Stated against observed probability, before and after a temperature."""
    found = _mapping(run.metrics.get("calibration"))
    bins, ece = _bins(found.get("bins")), number(found.get("ece"))
    if not bins or ece is None:
        return ""
    series = [("as stated", bins)]
    crossed, fitted = _mapping(found.get("cross_fitted")), _mapping(found.get("temperature"))
    mended = _bins(crossed.get("bins"))
    if mended:
        series.append(("with a temperature, cross-fitted", mended))
    what = "predictions that are right" if run.task.exclusive else "classes that are there"
    stated = "probability of the prediction" if run.task.exclusive else "probability of a class"
    chart = reliability_chart(series, across=stated, up=what)
    rows = [["As stated", percent(ece), _nats(found.get("nll")), ""]]
    for name, part in (
        ("Temperature, cross-fitted", crossed),
        ("Temperature, fitted here", fitted),
    ):
        if number(part.get("ece")) is not None:
            value = part.get("value") or part.get("temperatures")
            rows.append([name, percent(part["ece"]), _nats(part.get("nll")), _temperature(value)])
    box = table(["", "ECE", "NLL", "Temperature"], rows, kinds=["", "num", "num", "num"])
    text = (
        "<p>On the dotted line, what is stated with 80% is so in 80% of the cases; below it the "
        "model is too sure. Larger marks are more cases. ECE is the mean distance to that line "
        "over 15 bins, NLL the mean surprise about the labels in nats.</p>"
    )
    if fitted:
        text += (
            "<p>A temperature divides the logits. Fitted on these very clips its scores are "
            "optimistic; cross-fitted, each half of the clips has the temperature of the other.</p>"
        )
    legend = _legend([name for name, _ in series])
    return (
        f'<h3>Calibration</h3><div class="charts"><figure class="card">{legend}{chart}</figure>'
        f"<div>{text}{box}</div></div>"
    )


def group_tables(run: RunRecord) -> str:
    """The headline number by duration and by source, where they are known."""
    key, title = run.headline
    tables = []
    for entry, heading, name in (
        ("by_duration", "By duration", "Clips of"),
        ("by_source", "By source", "Folder"),
    ):
        rows = []
        for group in _rows(run.metrics.get(entry)):
            value, count = number(group.get(key)), number(group.get("num_clips")) or 0
            where = _seconds(group) if entry == "by_duration" else escape(group.get("source", ""))
            interval = _ends(group.get(f"{key}_interval95"))
            rows.append([where, f"{count:,.0f}", bar(value), interval])
        if rows:
            kinds = ["", "num", "bar", "num"]
            header = [name, "Clips", title, "95% interval"]
            box = table(header, rows, kinds=kinds, tall=len(rows) > 30)
            tables.append(f"<h3>{heading}</h3>{box}")
    return "".join(tables)


def _seconds(group: Mapping[str, Any]) -> str:
    low, high = (number(group.get(f"{end}_seconds")) or 0.0 for end in ("from", "to"))
    first, last = (f"{x:.1f}" if high < 100 else f"{x:,.0f}" for x in (low, high))
    return f"{first} s" if first == last else f"{first} to {last} s"


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    keys = "".join(
        '<span class="key"><svg width="14" height="14" aria-hidden="true"><circle cx="7" cy="7" '
        f'r="5" {"class=ring" if i else f"fill=var(--s{i})"} stroke="var(--s{i})"/></svg>'
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>'


def _temperature(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    low, high = TEMPERATURES
    texts = [
        f"{low:g} or less"
        if x < 1.01 * low
        else f"{high:g} or more"
        if x > 0.99 * high
        else f"{x:.2f}"
        for x in map(number, values)
        if x is not None
    ]
    return " and ".join(dict.fromkeys(texts))


def _nats(value: Any) -> str:
    known = number(value)
    return "-" if known is None else f"{known:.3f}"


def _ends(interval: Any) -> str:
    ends = [number(x) for x in interval] if isinstance(interval, list) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return "-"
    return f"{percent(ends[0])} to {percent(ends[1])}"


def _bins(rows: Any) -> Bins:
    """Rows with a count, if all are usable."""
    keys = ("count", "stated", "observed")
    filled = [row for row in _rows(rows) if number(row.get("count"))]
    return filled if all(number(row.get(key)) is not None for row in filled for key in keys) else []


def _rows(entry: Any) -> list[Mapping[str, Any]]:
    return [row for row in entry if isinstance(row, Mapping)] if isinstance(entry, list) else []


def _mapping(entry: Any) -> Mapping[str, Any]:
    return entry if isinstance(entry, Mapping) else {}
