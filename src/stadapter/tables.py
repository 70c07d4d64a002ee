"""Results as text: tables for people, JSON and CSV for programs."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from stadapter.predict import Prediction


def predictions_text(predictions: Sequence[Prediction], format: str) -> str:
    """Predictions as "table", "json" (a list of objects) or "csv" (a line per file and class)."""
    if format == "json":
        objects = [
            {
                "path": p.path,
                "predictions": [
                    {"label": label, "score": round(score, 6)}
                    for label, score in zip(p.labels, p.scores, strict=True)
                ],
                "error": p.error,
            }
            for p in predictions
        ]
        return json.dumps(objects, indent=2, ensure_ascii=False) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "rank", "label", "score", "error"])
        for p in predictions:
            for rank, (label, score) in enumerate(zip(p.labels, p.scores, strict=True), 1):
                writer.writerow([p.path, rank, label, f"{score:.6f}", ""])
            if p.error:
                writer.writerow([p.path, "", "", "", p.error])
        return text.getvalue()
    rows = [
        {
            "file": p.path,
            "predictions": p.error
            or "  ".join(f"{label} {s:.1%}" for label, s in zip(p.labels, p.scores, strict=True)),
        }
        for p in predictions
    ]
    return table_text(rows)


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as an aligned table; numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    with console.capture() as capture:
        console.print(table, markup=False)
    return capture.get()


def _cell(value: Any) -> Any:
    from rich.text import Text

    if isinstance(value, float):
        value = f"{value:.3f}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return Text(str(value))  # class names may hold [brackets], which are no markup
