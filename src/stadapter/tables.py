"""Results as text: tables for people, JSON and CSV for programs."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from stadapter.backbones.catalogue import BackboneEntry
from stadapter.predict import Prediction
from stadapter.tasks import Ranking


def predictions_text(predictions: Sequence[Prediction], format: str) -> str:
    """Predictions as "table", "json" (a list of objects) or "csv" (a line per file and label).

    Rankings of parts (verbs, nouns) have columns of their own in a table, entries in JSON, and in
    CSV lines that column `part` tells apart from those of the whole label.
    """
    kinds = list(dict.fromkeys(kind for p in predictions for kind in p.parts))
    if format == "json":
        objects = [
            {
                "path": p.path,
                "predictions": _objects(_ranking(p)),
                **{kind: _objects(ranking) for kind, ranking in p.parts.items()},
                "error": p.error,
            }
            for p in predictions
        ]
        return json.dumps(objects, indent=2, ensure_ascii=False) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "rank", "label", "score", "error", *(["part"] if kinds else [])])
        for p in predictions:
            for part, ranking in {"": _ranking(p), **p.parts}.items():
                ending = ["", part] if kinds else [""]
                for rank, (label, score) in enumerate(ranking, 1):
                    writer.writerow([p.path, rank, label, f"{score:.6f}", *ending])
            if p.error:
                writer.writerow([p.path, "", "", "", p.error, *([""] if kinds else [])])
        return text.getvalue()
    rows = [
        {
            "file": p.path,
            "predictions": p.error or _line(_ranking(p)) or "(no class above the threshold)",
            **{f"{kind}s": _line(p.parts.get(kind, [])) for kind in kinds},
        }
        for p in predictions
    ]
    return table_text(rows)


def _ranking(prediction: Prediction) -> Ranking:
    return list(zip(prediction.labels, prediction.scores, strict=True))


def _objects(ranking: Ranking) -> list[dict[str, Any]]:
    return [{"label": label, "score": round(score, 6)} for label, score in ranking]


def _line(ranking: Ranking) -> str:
    return "  ".join(f"{label} {score:.1%}" for label, score in ranking)


def backbones_text(entries: Sequence[BackboneEntry], format: str) -> str:
    """Backbones as "table" or "json" (a list of objects); what was not counted stays empty."""
    if format == "json":
        return json.dumps([asdict(entry) for entry in entries], indent=2) + "\n"
    return table_text(
        [{name: _plain(value) for name, value in asdict(entry).items()} for entry in entries]
    )


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as an aligned table; numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float)) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    console = Console()
    if not console.is_terminal:  # a pipe has no width to fit into
        console = Console(width=10_000)
    # A short name stays on one line; a long path would push the other columns out.
    names = [_cell(next(iter(row.values()))) for row in rows]
    table.columns[0].no_wrap = max(name.cell_len for name in names) <= console.width // 2
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    with console.capture() as capture:
        console.print(table, markup=False)
    return capture.get()


def _plain(value: Any) -> Any:
    """Nothing for None, and "16 x 16" for a pair."""
    if isinstance(value, tuple):
        return " x ".join(str(side) for side in value)
    return "" if value is None else value


def _cell(value: Any) -> Any:
    from rich.text import Text

    if isinstance(value, float):
        value = f"{value:.3f}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return Text(str(value))  # class names may hold [brackets], which are no markup
