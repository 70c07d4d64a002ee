"""Kinetics-400, -600 and -700: CSVs with label, youtube_id, time_start, time_end, split."""

from pathlib import Path

from stadapter.data.annotations.rows import (
    class_name,
    columns_named,
    read_delimited,
    read_header,
    seconds,
    split_name,
)
from stadapter.data.annotations.source import Annotations, Format, Lists, Source, lists_by_name
from stadapter.data.annotations.videos import VideoIndex

COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def _is_list(file: Path) -> bool:
    return file.suffix.lower() == ".csv" and {"label", "youtube_id"} <= set(read_header(file))


def _whole_seconds(text: str) -> int:
    value = seconds(text)
    if not value.is_integer():  # also nan, of an empty cell
        raise ValueError(f"{text!r} must be whole seconds")
    return int(value)


def _read(lists: Lists, source: Source) -> Annotations:
    labels: list[str] = []
    stems: list[tuple[str, str]] = []
    splits: list[str] = []
    for split, file in lists.files.items():
        wanted = COLUMNS if split else (*COLUMNS, "split")
        rows = read_delimited(file, columns_named(*wanted))
        rows.times("time_start", "time_end")
        labels += rows.parse("label", class_name)
        starts = rows.parse("time_start", _whole_seconds)
        ends = rows.parse("time_end", _whole_seconds)
        # Kept by segment, or by id alone; either way the file is the trimmed clip.
        ids = rows.parse("youtube_id", _video_id)
        times = zip(ids, starts, ends, strict=True)
        stems += [(f"{name}_{start:06d}_{end:06d}", name) for name, start, end in times]
        splits += [split] * len(rows) if split else rows.parse("split", split_name)
    paths, notes = VideoIndex(source).locate(stems, labels)
    return Annotations(paths, "single_label", (labels,), splits, notes=notes)


def _video_id(text: str) -> str:
    if not text.strip():
        raise ValueError("the video is missing")
    return text.strip()


KINETICS = Format(
    f"a CSV with columns {', '.join(COLUMNS)}, split, or a folder with train.csv and val.csv",
    lists_by_name(_is_list),
    _read,
)
