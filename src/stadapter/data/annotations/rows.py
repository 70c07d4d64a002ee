"""Text columns of one list, and errors that say where in it: file, line, column."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What lists call a split -> what it is called here."""


@dataclass(frozen=True)
class Rows:
    """Columns of text, all of one length."""

    file: Path
    """The list that they were read from."""
    columns: dict[str, list[str]]
    """Column -> its cells."""
    place: Callable[[int], str]
    """Row number, from 0 -> where it stands in the file, as "line 12"."""
    titles: dict[str, str] = field(default_factory=dict)
    """Column -> what the file calls it, where that differs."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def error(self, row: int, column: str, problem: str) -> ValueError:
        """The error that says where the problem is."""
        title = self.titles.get(column, column)
        return ValueError(f"{self.file}, {self.place(row)}, column {title}: {problem}")

    def take(self, rows: Sequence[int]) -> "Rows":
        """Some of the rows, which keep their places."""
        columns = {name: [cells[i] for i in rows] for name, cells in self.columns.items()}
        return Rows(self.file, columns, lambda row: self.place(rows[row]), self.titles)

    def parse(self, column: str, convert: Callable[[str], T]) -> list[T]:
        """Every cell of a column, converted; equal cells are converted once.

        Raises:
            ValueError: of `convert`, with the place of the first cell that has it.
        """
        cells = self.columns[column]
        known: dict[str, T] = {}
        for cell in dict.fromkeys(cells):
            try:
                known[cell] = convert(cell)
            except ValueError as error:
                raise self.error(cells.index(cell), column, str(error)) from error
        return [known[cell] for cell in cells]

    def times(self, start: str, end: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Starts and ends in seconds, of whichever of the two columns there are.

        Raises:
            ValueError: a cell is no time, or a clip ends before it starts.
        """
        n = len(self)
        nothing = np.full(n, np.nan)
        starts, ends = (
            np.array(self.parse(name, seconds), np.float64) if name in self.columns else nothing
            for name in (start, end)
        )
        for row in np.flatnonzero(ends <= np.where(np.isnan(starts), 0.0, starts)).tolist():
            before = self.columns[start][row] if start in self.columns else "0"
            problem = f"the clip ends at {self.columns[end][row]}, not after its start {before}"
            raise self.error(row, end, problem)
        return starts, ends


def seconds(text: str) -> float:
    """Seconds from "12.5" or "00:05:27.84"; nan from an empty cell.

    Raises:
        ValueError: neither.
    """
    text = text.strip()
    if not text:
        return math.nan
    total = 0.0
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = [math.nan]
    for part in parts:
        total = 60 * total + part
    if len(parts) > 3 or not all(math.isfinite(part) and part >= 0 for part in parts):
        raise ValueError(f"{text!r} is no time; write seconds (12.5) or HH:MM:SS (00:05:27.84)")
    return total


def whole_number(text: str) -> int:
    """A number from 0 on.

    Raises:
        ValueError: the text is none.
    """
    text = text.strip()
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def class_name(text: str) -> str:
    """The name without the blanks around it.

    Raises:
        ValueError: nothing is left.
    """
    name = text.strip()
    if not name:
        raise ValueError("the class is missing")
    return name


def split_name(text: str) -> str:
    """ "train", "val" or "test".

    Raises:
        ValueError: the text names no split.
    """
    split = SPLIT_NAMES.get(text.strip().lower())
    if split is None:
        raise ValueError(f"split {text.strip()!r} must be train, val or test")
    return split


def class_in(names: Sequence[str], file: Path) -> Callable[[str], str]:
    """What a cell means where there is a list of classes: a name in it, or a number into it.

    The function raises ValueError for a cell that is neither.
    """
    known = set(names)

    def convert(text: str) -> str:
        name = class_name(text)
        if name in known:
            return name
        if not (name.isascii() and name.isdecimal()):
            raise ValueError(f"unknown class {name!r}; {file.name} has {listed(names)}")
        if int(name) >= len(names):
            raise ValueError(
                f"class index {name} is out of range; {file.name} has {len(names)} classes, 0 to "
                f"{len(names) - 1}"
            )
        return names[int(name)]

    return convert


def read_text(file: Path) -> str:
    """A file's text, line ends as they are, without a byte order mark.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}: this is no text in UTF-8 ({error})") from error


def read_header(file: Path, delimiter: str = ",") -> list[str]:
    """The first line's cells; nothing where they cannot be read."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        line = stream.readline(65536)
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read_delimited(
    file: Path, pick: Callable[[list[str]], dict[str, str]], delimiter: str = ","
) -> Rows:
    """Columns of a CSV with a header; blank lines are left out, short ones end in empty cells.

    Args:
        file: UTF-8, with or without a byte order mark.
        pick: header -> the columns to read, as name here -> title in the header.
        delimiter: between cells.

    Raises:
        ValueError: no CSV, a column is missing, a line has more cells than the header.
    """
    reader = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]]
    try:
        header = [title.strip() for title in next(reader, [])]
        try:
            titles = pick(header)
        except ValueError as error:
            raise ValueError(f"{file}, line 1: {error}") from error
        columns: dict[str, list[str]] = {name: [] for name in titles}
        cells = [(columns[name], header.index(title)) for name, title in titles.items()]
        result = Rows(file, columns, lambda row: f"line {_line_of(file, delimiter, row)}", titles)
        while rows := list(islice(reader, 256)):  # few enough to stay in the processor's cache
            if set(map(len, rows)) != {len(header)}:
                rows = [row for row in rows if row]
                _check_width(rows, len(header), result)
                rows = [row + [""] * (len(header) - len(row)) for row in rows]
            parts = list(zip(*rows, strict=True))
            for column, k in cells:
                column += parts[k] if parts else ()
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}") from error
    if not len(result):
        raise ValueError(f"{file} has a header but no clips")
    return result


def _check_width(rows: Sequence[Sequence[str]], width: int, before: Rows) -> None:
    for i, row in enumerate(rows):
        if len(row) > width:
            start = ",".join(row)[:60]
            raise ValueError(
                f"{before.file}, {before.place(len(before) + i)}: {start!r} has more columns than "
                "the header; quote cells that hold a comma"
            )


def _line_of(file: Path, delimiter: str, row: int) -> int:
    """Line of a row: counted only when an error has to name it."""
    reader = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter)
    next(reader)
    rows = (reader.line_num for cells in reader if cells)
    return next(islice(rows, row, None))


def columns_named(*titles: str) -> Callable[[list[str]], dict[str, str]]:
    """For `read_delimited`: these columns, all of which must be there."""

    def pick(header: list[str]) -> dict[str, str]:
        missing = [title for title in titles if title not in header]
        if missing:
            raise ValueError(
                f"column {' and '.join(missing)} is missing; the header is {','.join(header)!r}"
            )
        return {title: title for title in titles}

    return pick


def read_lines(file: Path) -> tuple[list[str], list[int]]:
    """Lines that are not blank, without line ends, and the number of each.

    Raises:
        ValueError: the file is not UTF-8.
    """
    lines = read_text(file).split("\n")
    numbers = [i for i, line in enumerate(lines) if line.strip()]
    return [lines[i].rstrip("\r") for i in numbers], [i + 1 for i in numbers]


def read_json(file: Path) -> Any:
    """A JSON file's content.

    Raises:
        ValueError: it holds no JSON; the line and column are named.
    """
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}, column {error.colno}: this is no JSON ({error.msg})"
        ) from error


def read_class_names(file: Path) -> tuple[str, ...]:
    """Class names, one a line; the first is class 0.

    Raises:
        ValueError: no names, or one twice.
    """
    lines, numbers = read_lines(file)
    names = [line.strip() for line in lines]
    if not names:
        raise ValueError(f"{file} names no classes")
    for i, name in enumerate(names):
        first = names.index(name)
        if first < i:
            raise ValueError(
                f"{file}, line {numbers[i]}: class {name!r} stands on line {numbers[first]} too"
            )
    return tuple(names)


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a sentence, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
