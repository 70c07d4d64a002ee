"""Parquet files as text columns. The only file that knows pyarrow (extra: parquet)."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stadapter.data.annotations.rows import Rows
from stadapter.data.labels import join_names


def parquet_header(file: Path) -> list[str]:
    """Names of the columns.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: the file is no Parquet.
    """
    return list(_open(file).schema_arrow.names)


def read_parquet(file: Path, pick: Callable[[list[str]], dict[str, str]]) -> Rows:
    """Columns as text, as a CSV would have them; lists of names become "a|b".

    Raises:
        ImportError: pyarrow is missing.
        ValueError: the file is no Parquet, a column is missing or holds nothing that can be text.
    """
    source = _open(file)
    try:
        titles = pick(list(source.schema_arrow.names))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    table = source.read(columns=list(titles.values()))
    rows = Rows(file, {}, lambda row: f"row {row + 1}", titles)
    for name, title in titles.items():
        cells = table.column(title).to_pylist()
        texts: list[str] = []
        rows.columns[name] = texts
        for i, cell in enumerate(cells):
            try:
                texts.append(cell if isinstance(cell, str) else _text(cell))
            except TypeError as error:
                raise rows.error(i, name, str(error)) from error
    if not len(rows):
        raise ValueError(f"{file} has no rows")
    return rows


def _open(file: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            f"{file} needs pyarrow, which is missing; pip install stadapter[parquet]"
        ) from error
    try:
        return ParquetFile(file)
    except ArrowInvalid as error:
        raise ValueError(f"{file} is no Parquet file: {error}") from error


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, datetime.timedelta):
        return repr(cell.total_seconds())
    if isinstance(cell, (list, tuple)):
        return join_names([_text(item) if not isinstance(item, str) else item for item in cell])
    if isinstance(cell, (int, float, str)):
        return str(cell)
    raise TypeError(f"a value of type {type(cell).__name__} is no text, number or list of them")
