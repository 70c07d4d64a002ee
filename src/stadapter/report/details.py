"""One run by itself: settings of its test, confusions, worst clips, unreadable files, recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stadapter.data.labels import VOCABULARIES
from stadapter.report.clips import worst_and_best
from stadapter.report.confusions import confusion_section
from stadapter.report.frames import Frames
from stadapter.report.page import duration, escape, facts, note, percent, plural, size, table
from stadapter.report.record import RunRecord, number
from stadapter.report.scores import calibration_section, group_tables, numbers_table
from stadapter.report.seen import what_it_was_given
from stadapter.tasks import TASKS

MAX_LISTED = 200
"""Unreadable files listed."""

_NAMES = {
    "split": "Split",
    "num_temporal_views": "Temporal views",
    "num_spatial_views": "Spatial views",
    "num_frames": "Frames per view",
    "frame_stride": "Frame stride",
    "resolution": "Resolution",
    "precision": "Precision",
    "selected": "Weights of",
    "flip": "Flips",
    "seed": "Seed of the training",
    "num_salvaged": "Salvaged clips",
    "waited_for_data": "Waited for clips",
}
_KINDS = ("", *(f"{kind}_" for kind in VOCABULARIES["verb_noun"]))
_NOT_SETTINGS = frozenset(
    [
        *("num_clips", "num_broken", "broken", "broken_train", "class_names", "label_space"),
        *("clip_list_sha256", "average_precision", "clips_per_class", "seconds", "versions"),
        *("by_duration", "by_source", "bootstrap", "calibration", "single_view", "checkpoint"),
        *(f"{kind}{name}_per_class" for kind in _KINDS for name in ("recall", "precision")),
        *(name for task in TASKS.values() for name in (*task.numbers, *task.matrices.values())),
        *(f"{name}_interval95" for task in TASKS.values() for name in task.numbers),
    ]
)


def run_details(run: RunRecord, frames: Frames, index: int, *, alone: bool) -> str:
    """The section of run number `index`; `alone` when the page is about this run only."""
    heading = "Details" if alone else escape(run.name)
    parts = [
        f'<h2 id="run{index}">{heading}</h2>',
        *(note(text) for text in run.notes),
        _facts(run, alone=alone),
        numbers_table(run),
        *(confusion_section(run, kind, f"order{index}-{kind}") for kind in run.confusions),
        calibration_section(run),
        group_tables(run),
        worst_and_best(run, frames),
        what_it_was_given(run),
        _broken(run),
    ]
    if run.recipe:
        recipe = escape(run.recipe)
        parts.append(f"<details><summary>Recipe</summary><pre>{recipe}</pre></details>")
    return "\n".join(part for part in parts if part)


def _facts(run: RunRecord, *, alone: bool) -> str:
    """What is not in the tiles of a page about this run alone."""
    metrics = run.metrics
    entries = []
    for key, name in () if alone else list(run.task.numbers.items())[1:]:
        value = number(metrics.get(key))
        if value is not None:
            entries.append((name, percent(value)))
    for kind, confusion in run.confusions.items():
        counts = [sum(row) for row in confusion]
        if sum(counts):
            name = f"Guessing the largest {_word(kind)}"
            entries.append((name, percent(max(counts) / sum(counts))))
    for key, value in metrics.items():
        if key not in _NOT_SETTINGS and not isinstance(value, dict):
            entries.append((_NAMES.get(key, key), escape(_context_value(key, value))))
    if number(metrics.get("seconds")) is not None:
        entries.append(("Time to score", duration(metrics["seconds"])))
    if run.num_trained is not None and run.file_bytes is not None and not alone:
        entries.append(("Trained parameters", f"{run.num_trained:,}"))
        entries.append(("Adapter file", size(run.file_bytes)))
    entries += _training(metrics.get("training"))
    entries += [(name, f"<code>{escape(text[:12])}</code>") for name, text in _hashes(metrics)]
    return facts(entries) if entries else ""


def _training(record: Any) -> list[tuple[str, str]]:
    """What the training cost, as far as it is known."""
    known = record if isinstance(record, dict) else {}
    values = {key: number(value) for key, value in known.items()}
    shown = {
        "seconds": ("Time to train", duration),
        "clips_per_second": ("Clips per second", lambda x: f"{x:.3g}"),
        "peak_memory_bytes": ("Peak memory in training", size),
        "num_processes": ("Processes", lambda x: f"{x:.0f}"),
    }
    found = [
        (name, write(value))
        for key, (name, write) in shown.items()
        if (value := values.get(key)) is not None
    ]
    device = known.get("device")
    return found + ([("Device", escape(device))] if isinstance(device, str) else [])


def _hashes(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What says which clips and which weights were scored, as far as it is known."""
    checkpoint = metrics.get("checkpoint")
    known = checkpoint if isinstance(checkpoint, dict) else {}
    found = [
        ("Clip list", metrics.get("clip_list_sha256")),
        ("Adapter file's SHA-256", known.get("adapter_sha256")),
        ("Backbone's fingerprint", known.get("backbone_fingerprint")),
    ]
    return [(name, text) for name, text in found if isinstance(text, str)]


def _context_value(key: str, value: Any) -> str:
    if key == "resolution" and isinstance(value, list):
        return " × ".join(map(str, value))
    if key == "waited_for_data" and number(value) is not None:
        return percent(value)
    if key == "frame_stride" and value is None:
        return "uniform over the video"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _word(kind: str) -> str:
    """What a class of this vocabulary is called."""
    return "class" if kind == "label" else kind


def _broken(run: RunRecord) -> str:
    rows = [
        [f'<span title="{escape(path)}">{escape(Path(path).name)}</span>', part, escape(reason)]
        for key, part in (("broken", "scoring"), ("broken_train", "training"))
        for path, reason in _broken_files(run.metrics.get(key))
    ]
    if not rows:
        return ""
    left_out = len(rows) - MAX_LISTED
    more = f"<p>{left_out:,} more are in metrics.json.</p>" if left_out > 0 else ""
    box = table(["File", "Met in", "Reason"], rows[:MAX_LISTED], kinds=["", "", "wide"], tall=True)
    return (
        f"<h3>Files that could not be read</h3><p>{plural(len(rows), 'file')}, neither counted "
        f"as right nor as wrong.</p>{box}{more}"
    )


def _broken_files(entries: Any) -> list[tuple[str, str]]:
    known = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return [(str(e.get("path", "")), str(e.get("reason", ""))) for e in known]
