"""Pieces of the report's page: style sheet, tables, numbers as people read them. Strings only.

The page loads nothing: its policy forbids everything but inline styles and embedded pictures, so
even a name that slipped through escaping could not fetch or run anything.
"""

from collections.abc import Sequence
from html import escape as _escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --text: #1b1f24; --muted: #5f6770;
  --line: #e1e4e8; --accent: #1f5fae; --on-accent: #fff; --warn: #8a4b00;
  --warn-tint: #fdf3e4; --middle: #1b1f24; --s0: #1f5fae; --s1: #c4590c; --s2: #1a7f6b;
  --s3: #7a5195; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1b1f25; --text: #e4e7eb;
  --muted: #9aa3ad; --line: #323840; --accent: #7db0f0; --on-accent: #0d1b2c;
  --warn: #f0bd73; --warn-tint: #2e2719; --middle: #0d1b2c; --s0: #7db0f0; --s1: #f0955a;
  --s2: #5cc4ad; --s3: #c29be0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 72px; overflow-wrap: anywhere; }
h1 { font-size: 28px; line-height: 1.25; font-weight: 650; margin: 0 0 8px; }
h2 { font-size: 20px; line-height: 1.3; font-weight: 650; margin: 56px 0 8px; padding-top: 16px;
  border-top: 1px solid var(--line); }
h3 { font-size: 16px; font-weight: 650; margin: 32px 0 8px; }
p { margin: 8px 0 16px; max-width: 72ch; }
.lead { font-size: 17px; color: var(--muted); margin: 0 0 24px; }
.small, figcaption { color: var(--muted); font-size: 14px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; margin: 24px 0 0; }
a { color: var(--accent); text-underline-offset: 3px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.tiles { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 16px 20px; }
.tile .name { font-size: 14px; color: var(--muted); }
.tile .value { font-size: 30px; line-height: 1.3; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.tile.best .value { color: var(--accent); }
.tile .sub { font-size: 13px; line-height: 1.5; color: var(--muted); }
.card { padding: 16px; }
.scroll { overflow: auto; max-width: 100%; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.scroll.tall { max-height: 560px; }
.scroll.pad { padding: 16px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 8px 14px; text-align: left; vertical-align: top; overflow-wrap: normal;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; color: var(--muted); white-space: nowrap; position: sticky; top: 0;
  background: var(--card); }
tbody th { font-weight: 500; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { min-width: 18em; overflow-wrap: anywhere; }
td.bar { min-width: 150px; }
.bar > div { display: flex; align-items: center; gap: 10px; }
.bar .track { flex: 1; height: 8px; border-radius: 4px; background: var(--line); overflow: hidden; }
.bar .fill { display: block; height: 100%; background: var(--accent); }
.bar .share { min-width: 3.6em; text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption b { color: var(--text); font-weight: 600; }
svg.chart { display: block; width: 100%; height: auto; margin-top: 8px; overflow: visible; }
svg text { fill: var(--text); font-family: inherit; }
.tick { font-size: 12.5px; fill: var(--muted) !important; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); }
.line { fill: none; stroke-width: 2.25; stroke-linejoin: round; }
.faint { fill: none; stroke-width: 1; opacity: .35; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; margin: 8px 0 12px; }
.key { display: inline-flex; align-items: center; gap: 8px; }
svg.matrix { display: block; margin: 0 auto; }
.matrix .field { fill: none; stroke: var(--line); }
.matrix .cell { fill: var(--accent); }
.matrix .apart { margin-top: 16px; }
.middle { fill: var(--middle); }
.matrix .high { fill: var(--on-accent); }
img.pixels { display: block; margin: 0 auto; width: 640px; max-width: none; height: auto;
  image-rendering: pixelated; outline: 1px solid var(--line); }
.choice > input { position: absolute; opacity: 0; pointer-events: none; }
.choice > .of { font-size: 14px; color: var(--muted); margin-right: 10px; }
.choice > label { display: inline-block; font-size: 14px; padding: 4px 12px; margin: 0 4px 10px 0;
  border: 1px solid var(--line); border-radius: 999px; background: var(--card); cursor: pointer; }
.choice > input:checked + label { background: var(--accent); color: var(--on-accent);
  border-color: var(--accent); }
.choice > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.choice > .option { display: none; }
.choice > input:nth-of-type(1):checked ~ .option:nth-of-type(1),
.choice > input:nth-of-type(2):checked ~ .option:nth-of-type(2),
.choice > input:nth-of-type(3):checked ~ .option:nth-of-type(3) { display: block; }
.apart { margin-top: 16px; }
.middle { max-width: 640px; margin: 0 auto; }
svg.square { max-width: 376px; margin: 8px auto 0; }
.ideal { stroke: var(--muted); stroke-dasharray: 2 4; }
.thin { fill: none; stroke-width: 1.5; opacity: .7; }
.ring { fill: var(--card); stroke-width: 2; }
.zero { stroke: var(--muted); }
.span { stroke-width: 3; stroke-linecap: round; stroke: var(--muted); }
.same circle { fill: var(--muted); }
.better circle { fill: var(--s2); }
.better .span { stroke: var(--s2); }
.worse circle { fill: var(--s1); }
.worse .span { stroke: var(--s1); }
.thumbs { display: grid; gap: 16px; margin: 16px 0 0; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.thumbs li { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; min-width: 0; }
.thumbs img { display: block; width: 100%; height: auto; background: var(--line); }
.thumbs .what { font-size: 13px; line-height: 1.45; padding: 8px 12px 12px; }
.thumbs b { font-weight: 600; }
.thumbs .note { margin: 0; border-radius: 0; font-size: 13px; }
.facts { display: grid; gap: 12px 24px; margin: 16px 0;
  grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); }
.facts dt { font-size: 13px; color: var(--muted); }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.clips { border-top: 1px solid var(--line); margin: 16px 0 0; padding: 0; list-style: none; }
.clips li { display: grid; grid-template-columns: minmax(150px, 1fr) minmax(0, 3.2fr);
  gap: 8px 24px; align-items: center; padding: 12px 0; border-bottom: 1px solid var(--line); }
.clips .what { font-size: 14px; line-height: 1.45; min-width: 0; }
.clips b { font-weight: 600; }
.strip { display: grid; gap: 4px; grid-template-columns: repeat(var(--n), minmax(0, 96px)); }
.strip img { display: block; width: 100%; height: auto; border-radius: 3px; }
.note { background: var(--warn-tint); color: var(--warn); border-radius: 8px; padding: 10px 16px;
  font-size: 14px; margin: 12px 0; max-width: none; }
.clips .note { margin: 0; }
details { margin: 16px 0; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px;
  overflow-x: auto; margin: 8px 0; overflow-wrap: normal; }
@media (max-width: 640px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 24px; }
  .clips li { grid-template-columns: minmax(0, 1fr); }
  .strip { grid-template-columns: repeat(var(--few), minmax(0, 96px)); }
  .tiles { grid-template-columns: minmax(0, 1fr); gap: 12px; }
  .charts { grid-template-columns: minmax(0, 1fr); }
  .thumbs { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
  .card { padding: 12px; }
  td.bar { min-width: 120px; }
  .facts { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
  .scroll.pad { padding: 12px; }
  th, td { padding: 8px 10px; }
}
@media (max-width: 480px) { .tick { font-size: 16px; } }
@media print {
  .choice > .option { display: block; }
  .scroll, .scroll.tall { overflow: visible; max-height: none; }
}
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escape(value: Any) -> str:
    """Text for HTML, also within quoted attributes; bytes that are no UTF-8 become visible."""
    return _escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8"))


def document(title: str, body: str, *, style: str = "") -> str:
    """The whole page; `body` is HTML, `style` are rules of this page beside the common ones."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    kinds: Sequence[str],
    tall: bool = False,
) -> str:
    """A table in a box of its own that scrolls.

    Args:
        header: column names, as text.
        rows: cells, as HTML; the first of a row is its heading.
        kinds: "num", "bar", "wide" or "" for each column.
        tall: limit the height of the box.
    """
    classes = [f' class="{kind}"' if kind else "" for kind in kinds]
    head = "".join(
        f'<th scope="col"{c}>{escape(name)}</th>' for name, c in zip(header, classes, strict=True)
    )
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{c}>{x}</td>" for x, c in zip(others, classes[1:], strict=True))
        lines.append(f'<tr><th scope="row"{classes[0]}>{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll{" tall" if tall else ""}" tabindex="0"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def bar(share: float | None, *, none: str = "no clips") -> str:
    """A bar from 0 to 100% with its number; `none` for None."""
    if share is None:
        return f'<div><span class="small">{escape(none)}</span></div>'
    return (
        f'<div><span class="track"><span class="fill" style="width:{100 * share:.1f}%"></span>'
        f'</span><span class="share">{percent(share)}</span></div>'
    )


def choice(name: str, of: str, options: Sequence[tuple[str, str]]) -> str:
    """One of several contents at a time, the first to begin with; needs no script.

    Args:
        name: unique on the page.
        of: what is chosen, as text.
        options: title (text) and content (HTML) of two or three.
    """
    buttons = "".join(
        f'<input type="radio" name="{name}" id="{name}-{i}"{"" if i else " checked"}>'
        f'<label for="{name}-{i}">{escape(title)}</label>'
        for i, (title, _) in enumerate(options)
    )
    contents = "".join(f'<div class="option">{content}</div>' for _, content in options)
    return (
        f'<div class="choice" role="group" aria-label="{escape(of)}"><span class="of">{escape(of)}'
        f"</span>{buttons}{contents}</div>"
    )


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """Names (text) and values (HTML) in a grid."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{v}</dd></div>" for name, v in entries)
    return f'<dl class="facts">{items}</dl>'


def tile(name: str, value: str, sub: str, *, best: bool = False) -> str:
    """One number that matters; `sub` is HTML below it."""
    return (
        f'<div class="tile{" best" if best else ""}"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="sub">{sub}</div></div>'
    )


NOTE = '<p class="note">'
"""How a note begins."""


def note(text: str) -> str:
    """Something the reader must not overlook."""
    return f"{NOTE}{escape(text)}</p>"


def percent(share: float) -> str:
    """A share of 1 as percent; more digits where it is small.

    >>> percent(0.9345), percent(1.0), percent(0.0031)
    ('93.5%', '100.0%', '0.31%')
    """
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"


def size(num_bytes: float) -> str:
    """Bytes in decimal units.

    >>> size(950), size(1_250_000)
    ('950 B', '1.25 MB')
    """
    for unit in ("B", "kB", "MB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(8.31), duration(200), duration(3900)
    ('8.3 s', '3 min 20 s', '1 h 05 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "clip"), plural(1200, "clip")
    ('1 clip', '1,200 clips')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {nouns or noun + 's'}"
