"""manifest.csv: what became of each clip. A line is added when a clip is done.

While a run goes on lines are only added, so that a kill loses at most the one that is being
written; of several lines about an output the last one counts, and what is no whole line is as if
the clip had not been done. At the end the file is rewritten in the collection's order.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from stadapter.atomic import write_text
from stadapter.prepare.transcode import PreparedFile, Status


@dataclass(frozen=True)
class ManifestRow:
    """A clip, and what became of it."""

    source: str
    """Absolute path."""
    source_bytes: int
    """Size; -1 where there is no such file."""
    source_mtime_ns: int
    """Time of its last change, nanoseconds since 1970; -1 where there is no such file."""
    start_seconds: float | None
    """Where the clip begins in the source; None is the beginning."""
    end_seconds: float | None
    """Where it ends; None is the end."""
    output: str
    """Path of the output relative to the manifest."""
    file: PreparedFile

    @property
    def is_usable(self) -> bool:
        """Whether there is an output."""
        return self.file.status in ("prepared", "salvaged")

    def to_line(self) -> str:
        """As a line of CSV; nothing for None."""
        own = [getattr(self, name) for name in _OWN]
        rest = [getattr(self.file, name) for name in _FILE]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([*own, *rest])
        return text.getvalue()

    @classmethod
    def from_cells(cls, cells: list[str]) -> "ManifestRow":
        """The inverse of `to_line`, from the parsed cells.

        Raises:
            ValueError: they are not a whole line.
        """
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{len(cells)} cells")
        cell = dict(zip(COLUMNS, cells, strict=True))
        if cell["status"] not in get_args(Status):
            raise ValueError(f"status {cell['status']!r}")
        return cls(
            source=cell["source"],
            source_bytes=int(cell["source_bytes"]),
            source_mtime_ns=int(cell["source_mtime_ns"]),
            start_seconds=float(cell["start_seconds"]) if cell["start_seconds"] else None,
            end_seconds=float(cell["end_seconds"]) if cell["end_seconds"] else None,
            output=cell["output"],
            file=PreparedFile(
                status=cell["status"],  # type: ignore[arg-type]  # checked above
                reason=cell["reason"],
                output_bytes=int(cell["output_bytes"]),
                sha256=cell["sha256"],
                num_frames=int(cell["num_frames"]),
                duration_seconds=float(cell["duration_seconds"]),
                fps=float(cell["fps"]),
                width=int(cell["width"]),
                height=int(cell["height"]),
            ),
        )


_OWN = tuple(field.name for field in fields(ManifestRow))[:-1]
_FILE = (*(field.name for field in fields(PreparedFile) if field.name not in ("status", "reason")),)
_FILE += ("status", "reason")
COLUMNS = _OWN + _FILE
"""Header of manifest.csv."""


class Manifest:
    """The file while a run goes on; a context manager."""

    def __init__(self, path: Path) -> None:
        """Begin the file, or continue it after its last whole line.

        Raises:
            OSError: it cannot be written.
        """
        write_manifest(path, read_manifest(path))
        self._file = path.open("ab", buffering=0)  # a line is one write

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: ManifestRow) -> None:
        """Append a line."""
        self._file.write(row.to_line().encode())


def read_manifest(path: Path) -> list[ManifestRow]:
    """All whole lines in order; none if there is no file.

    Raises:
        OSError: it is there, but cannot be read.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace").replace("\0", "")
    rows = []
    lines = list(csv.reader(io.StringIO(text, newline="")))
    for cells in lines if text.endswith("\n") else lines[:-1]:
        try:
            rows.append(ManifestRow.from_cells(cells))
        except ValueError:
            continue  # the header, or a line that a kill has cut
    return rows


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Replace the file by these lines."""
    write_text(path, ",".join(COLUMNS) + "\n" + "".join(row.to_line() for row in rows))
