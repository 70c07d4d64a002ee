"""`stadapter prepare DATA OUT`: every clip of a collection, in supervised processes, resumable.

    OUT/
      prepare.json     the settings; written first
      manifest.csv     a line per clip; see `manifest`
      videos/          CLASS/NAME.mp4, or
      shards/          SPLIT-000000.tar with NAME.mp4 and NAME.json
      split.csv        the labels and splits of what could be prepared; written last

What is done is what the manifest and the files agree on, for a source of the same size and time.
"""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stadapter.atomic import write_json, write_text
from stadapter.data import Collection, DataConfig, announce_collection, load_collection
from stadapter.prepare.clips import LabelledClip, labelled_clips, replace_files
from stadapter.prepare.config import PrepareConfig
from stadapter.prepare.manifest import Manifest, ManifestRow, read_manifest, write_manifest
from stadapter.prepare.pack import SHARDS, Sample, pack_shards, shards_of
from stadapter.prepare.speed import ReadingSpeed, measure_reading
from stadapter.prepare.task import (
    VIDEOS,
    Clip,
    NotWritten,
    Task,
    do_task,
    loose_path,
    manifest_row,
    stamp,
)
from stadapter.prepare.transcode import PreparedFile, Status
from stadapter.progress import progress_bar
from stadapter.workers import Lost, run_supervised

RECORD = "prepare.json"
MANIFEST = "manifest.csv"
SPLIT = "split.csv"

RESERVE_BYTES = 64 * 1024**2
"""Free space below which no further clip is begun."""


@dataclass(frozen=True)
class PrepareSummary:
    """What a run of `prepare_collection` has come to."""

    out: Path
    counts: dict[Status, int]
    """Clips of each status."""
    not_whole: tuple[ManifestRow, ...]
    """Clips that are salvaged, failed or unfinished."""
    source_bytes: int
    """Size of the files whose clips were prepared or salvaged."""
    output_bytes: int
    """Size of what was made of them."""
    speed: ReadingSpeed | None
    """None where there was nothing to measure."""

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self.counts.items())
        lines = [f"{sum(self.counts.values())} clips: {counts}"]
        for row in self.not_whole[:_MOST_LISTED]:
            lines.append(f"  {row.file.status}: {row.source}: {row.file.reason}")
        if len(self.not_whole) > _MOST_LISTED:
            rest = len(self.not_whole) - _MOST_LISTED
            lines.append(f"  ... and {rest} more in {self.out / MANIFEST}")
        if self.counts.get("unfinished"):
            lines.append("unfinished clips are tried again when the same command is run again")
        change = 1 - self.output_bytes / max(1, self.source_bytes)
        lines.append(
            f"space: {_size(self.source_bytes)} of sources became {_size(self.output_bytes)}, "
            f"{abs(change):.0%} {'less' if change >= 0 else 'more'}"
        )
        if self.speed is not None:
            lines.append(str(self.speed))
        return "\n".join([*lines, f"train with: stadapter train {self.out} --out RUN"])


_MOST_LISTED = 20


def prepare_collection(
    data: str | Path,
    out: str | Path,
    config: PrepareConfig,
    *,
    shard_megabytes: int | None = None,
    num_workers: int = 1,
    timeout_seconds: float = 120.0,
    seed: int = 0,
    reading: DataConfig | None = None,
) -> PrepareSummary:
    """Transcode every clip of a collection into `out`, or go on where a run stopped.

    Args:
        data: what `load_collection` reads.
        out: folder for the results, new, empty, or of an earlier run with the same settings.
        config: how each clip is transcoded.
        shard_megabytes: pack the clips into tar shards of at most this size (a larger clip has one
            of its own); None leaves them as files.
        num_workers: number of processes.
        timeout_seconds: a process that reads and writes nothing for so long is ended, and its clip
            is left unfinished.
        seed: of the split, where the data gives none.
        reading: how the data is read; an interrupted run may go on with another skip list.

    Raises:
        FileNotFoundError, ValueError: data or settings that cannot be used, `out` within the data,
            other settings than those of the earlier run.
        FileExistsError: `out` holds something else.
        OSError: `out` cannot be written or the disk is full; run the same command again to go on.
        RuntimeError: not one clip could be prepared.
    """
    data, out = Path(data), Path(out)
    if num_workers < 1:
        raise ValueError(f"num_workers ({num_workers}) must be at least 1")
    if timeout_seconds <= 0:
        raise ValueError(f"timeout_seconds ({timeout_seconds:g}) must be above 0")
    if shard_megabytes is not None and shard_megabytes < 1:
        raise ValueError(f"shard_megabytes ({shard_megabytes}) must be at least 1")
    reading = reading or DataConfig()
    _check_apart(data, out)
    root = data if data.is_dir() else data.parent
    if reading.videos is not None:
        root = Path(reading.videos)
        _check_apart(root, out)
    collection = load_collection(data, reading, seed=seed)
    labelled = list(labelled_clips(collection, root.absolute()))
    _check_sources(out, labelled)
    record = _record(data, reading, config, shard_megabytes, seed)
    _check_place(out, record)
    announce_collection(collection, data)
    out.mkdir(parents=True, exist_ok=True)
    with _only_run(out):
        if not (out / RECORD).exists():
            write_json(out / RECORD, record)
        _remove_temporaries(out)
        clips = {labelled_clip.clip.name: labelled_clip.clip for labelled_clip in labelled}
        try:
            rows = _transcode(out, clips, config, num_workers, timeout_seconds)
        finally:
            _remove_temporaries(out)  # of processes that were ended
        usable = [item for item in labelled if rows[item.clip.name].is_usable]
        paths = {(item.split, item.clip.name): loose_path(item.clip) for item in usable}
        if shard_megabytes is not None:
            samples = [_sample(out, item, rows) for item in _merge_rows(usable)]
            paths = pack_shards(out, samples, shard_megabytes * 1024**2)
            for (_, name), path in reversed(paths.items()):
                rows[name] = replace(rows[name], output=path)
        write_manifest(out / MANIFEST, rows.values())
        return _finish(out, collection, usable, paths, rows)


# -- what may be written where ---------------------------------------------------------------------


def _check_apart(data: Path, out: Path) -> None:
    if not data.exists():
        return  # load_collection says so
    for folder in (out, *out.absolute().parents, *out.resolve().parents):
        if folder.exists() and folder.samefile(data):
            where = "the data itself" if folder == out else f"inside the data ({data})"
            raise ValueError(f"{out} is {where}, which is never written to; name another folder")


def _check_sources(out: Path, labelled: list[LabelledClip]) -> None:
    prefixes = tuple({str(out.absolute()) + os.sep, str(out.resolve()) + os.sep})
    for item in labelled:
        if item.clip.source.startswith(prefixes):
            raise ValueError(
                f"{item.clip.source} is a clip of the data, but lies inside {out}; name another "
                "folder to write to"
            )


def _record(
    data: Path,
    reading: DataConfig,
    config: PrepareConfig,
    shard_megabytes: int | None,
    seed: int,
) -> dict[str, Any]:
    def place(path: str | Path | None) -> str | None:
        return None if path is None else str(Path(path).resolve())

    return {
        "data": place(data),
        "format": reading.format,
        "videos": place(reading.videos),
        "classes": place(reading.classes),
        "seed": seed,
        "shard_megabytes": shard_megabytes,
        **asdict(config),
    }


def _check_place(out: Path, record: dict[str, Any]) -> None:
    """Refuse a place that holds anything but these clips with these settings."""
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder that is empty or does not exist")
    path = out / RECORD
    if not path.exists():
        if any(not _is_temporary(entry) for entry in out.iterdir()):
            raise FileExistsError(
                f"{out} is not empty and holds no prepared clips ({RECORD} is missing); name "
                "another folder"
            )
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}; name another folder") from error
    names = [name for name in record if there.get(name) != record[name]]
    if names:
        raise ValueError(
            f"{out} was prepared with "
            + ", ".join(f"{name} {there.get(name)!r} (now {record[name]!r})" for name in names)
            + "; give the same settings, or another folder"
        )


@contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock ends with the process, however it ends."""
    if sys.platform == "win32":  # no such locks
        yield
        return
    import fcntl

    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is writing to {out}; wait until it has ended") from error
        except OSError:
            pass  # some network disks lock no folders
        yield
    finally:
        os.close(descriptor)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _remove_temporaries(out: Path) -> None:
    """What a kill has left."""
    for folder in (out, out / SHARDS, *(out / VIDEOS).glob("*/")):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


# -- transcoding -----------------------------------------------------------------------------------


def _transcode(
    out: Path,
    clips: dict[str, Clip],
    config: PrepareConfig,
    num_workers: int,
    timeout_seconds: float,
) -> dict[str, ManifestRow]:
    """Bring every clip up to date; returns name -> row, in the order of `clips`."""
    done = _done(out, clips)
    stopped: list[str] = []

    def tasks() -> Iterator[Task]:
        for name, clip in clips.items():
            if name in done:
                continue
            free = shutil.disk_usage(out).free
            if free < RESERVE_BYTES:
                stopped.append(f"only {_size(free)} are free")
            if stopped:
                return
            target = out / loose_path(clip)
            target.parent.mkdir(parents=True, exist_ok=True)
            yield Task(clip, str(target), config)

    with (
        Manifest(out / MANIFEST) as manifest,
        progress_bar("preparing clips", len(clips), completed=len(done)) as bar,
    ):
        running = run_supervised(
            do_task, tasks(), num_workers=num_workers, timeout_seconds=timeout_seconds
        )
        for task, outcome in running:
            if isinstance(outcome, NotWritten):
                stopped.append(outcome.reason)
                continue
            row = _row(task.clip, outcome)
            if not row.is_usable:  # what an earlier version of the source gave
                Path(task.target).unlink(missing_ok=True)
            done[task.clip.name] = row
            _note(manifest, row, stopped)
            bar.advance()
    if stopped:
        raise OSError(
            f"{out} cannot be written further: {stopped[0]}; {len(done)} of {len(clips)} clips are "
            "done. Make space and run the same command again to go on"
        )
    return {name: done[name] for name in clips}


def _done(out: Path, clips: dict[str, Clip]) -> dict[str, ManifestRow]:
    """Clips that need not be transcoded again."""
    rows = {_name(row.output): row for row in read_manifest(out / MANIFEST)}
    sizes = _stored_sizes(out)
    done = {}
    for name, clip in clips.items():
        row = rows.get(name)
        if row is None or row.file.status == "unfinished":
            continue
        same = (row.source_bytes, row.source_mtime_ns) == stamp(clip.source)
        if same and (not row.is_usable or sizes.get(name) == row.file.output_bytes):
            done[name] = replace(row, output=loose_path(clip))
    return done


def _stored_sizes(out: Path) -> dict[str, int]:
    """Name of each output -> its size, loose or in a shard."""
    sizes = {}
    for tar, index in shards_of(out).items():
        tar_bytes = tar.stat().st_size
        for name, offset, size in zip(index.names, index.offsets, index.sizes, strict=True):
            if offset + size <= tar_bytes:
                sizes[_name(name.decode())] = int(size)
    for file in (out / VIDEOS).glob("*/*.mp4"):
        sizes[file.stem] = file.stat().st_size
    return sizes


def _row(clip: Clip, outcome: ManifestRow | Lost) -> ManifestRow:
    if isinstance(outcome, ManifestRow):
        return outcome
    return manifest_row(clip, stamp(clip.source), PreparedFile("unfinished", outcome.detail))


def _note(manifest: Manifest, row: ManifestRow, stopped: list[str]) -> None:
    try:
        manifest.add(row)
    except OSError as error:  # let the others finish; this clip is made again
        stopped.append(error.strerror or str(error))


def _name(output: str) -> str:
    """Name of a clip from the path of its output."""
    return output.rpartition("/")[2].removesuffix(".mp4")


# -- results ---------------------------------------------------------------------------------------


def _merge_rows(labelled: list[LabelledClip]) -> list[LabelledClip]:
    """One entry per clip and split, with all of its labels."""
    merged: dict[tuple[str, str], LabelledClip] = {}
    for item in labelled:
        key = (item.split, item.clip.name)
        first = merged.setdefault(key, item)
        labels = dict.fromkeys((*first.labels, *item.labels))
        merged[key] = replace(first, labels=tuple(labels))
    return list(merged.values())


def _sample(out: Path, item: LabelledClip, rows: dict[str, ManifestRow]) -> Sample:
    clip = item.clip
    record = {
        "labels": item.labels,
        "split": item.split,
        "source": clip.source,
        "start_seconds": clip.start_seconds,
        "end_seconds": clip.end_seconds,
    }
    return Sample(
        split=item.split,
        name=clip.name,
        video=out / loose_path(clip),
        num_bytes=rows[clip.name].file.output_bytes,
        record=json.dumps(record, ensure_ascii=False).encode(),
    )


def _finish(
    out: Path,
    collection: Collection,
    usable: list[LabelledClip],
    paths: dict[tuple[str, str], str],
    rows: dict[str, ManifestRow],
) -> PrepareSummary:
    if not usable:
        reasons = Counter(row.file.reason for row in rows.values()).most_common(1)
        raise RuntimeError(
            f"not one of {len(rows)} clips could be prepared, most often because: {reasons[0][0]}; "
            f"{out / MANIFEST} lists them"
        )
    outputs: dict[str, dict[int, str]] = {}
    for item in usable:
        outputs.setdefault(item.split, {})[item.row] = paths[item.split, item.clip.name]
    write_text(out / SPLIT, replace_files(collection, outputs).to_csv())
    good = [row for row in rows.values() if row.is_usable]
    statuses = Counter(row.file.status for row in rows.values())
    return PrepareSummary(
        out=out,
        counts={status: statuses[status] for status in _STATUSES if statuses[status]},
        not_whole=tuple(row for row in rows.values() if row.file.status != "prepared"),
        source_bytes=sum({row.source: row.source_bytes for row in good}.values()),
        output_bytes=sum(row.file.output_bytes for row in good),
        speed=measure_reading(out, good),
    )


_STATUSES: tuple[Status, ...] = ("prepared", "salvaged", "failed", "unfinished")


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
