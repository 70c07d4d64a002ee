"""One self-contained HTML file about one run or several: scores, curves, confusions, clips.

It is made to be mailed: no script, nothing loaded from elsewhere, frames embedded as small JPEGs.
The same run folders give the same bytes. Rooms: `record` reads a run folder; `page` and `charts`
write HTML and SVG and know no runs; `details` and `clips` make sections; `build` joins them.
"""

from stadapter.report.build import write_report

__all__ = ["write_report"]
