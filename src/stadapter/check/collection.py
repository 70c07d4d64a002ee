"""Check every clip of a collection and write down what was found."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stadapter.atomic import write_text
from stadapter.check.cache import FactsCache, stamp_or_none
from stadapter.check.clips import load_clips
from stadapter.check.decode import FileFacts, Problem
from stadapter.check.findings import (
    PROBLEMS,
    CheckedClip,
    ClassCount,
    class_faults,
    count_classes,
    judge,
)
from stadapter.check.page import check_page, clips_shown
from stadapter.check.task import inspect, show
from stadapter.data import DataConfig
from stadapter.device import default_num_workers
from stadapter.progress import progress_bar
from stadapter.tables import table_text
from stadapter.workers import Lost, run_supervised

CSV_NAME, PAGE_NAME, SKIP_NAME, CACHE_NAME = "check.csv", "check.html", "skip.csv", "cache.jsonl"

_FACT_COLUMNS = (
    *("bytes", "container", "codec", "width", "height", "rotation", "frames_declared"),
    *("frames_decoded", "duration_seconds", "fps", "variable_rate", "longest_gap_seconds"),
    *("audio", "content"),
)
COLUMNS = ("path", "split", "label", "problems", "details", "left_out", *_FACT_COLUMNS)
"""Of check.csv."""


@dataclass(frozen=True)
class CheckConfig:
    """How a collection is checked. Nothing here but the timeout can change what is found."""

    num_workers: int | None = None
    """Decoding processes, at least 1; None takes the number of cores."""
    timeout_seconds: float = 300.0
    """Time for decoding one file, after which it is reported as timed out."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 1")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds ({self.timeout_seconds}) must be above 0")


@dataclass(frozen=True)
class CheckResult:
    """What was found."""

    clips: tuple[CheckedClip, ...]
    """In the order of the collection."""
    classes: tuple[ClassCount, ...]
    """In the order of the classes."""
    faults: tuple[str, ...]
    """What is wrong with the collection as a whole, as sentences."""
    out: Path
    """The folder with the files that were written."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and not any(one.problems for one in self.clips)

    def count_problems(self) -> Counter[str]:
        """Kind -> clips that have it."""
        return Counter(
            kind for one in self.clips for kind in {problem.kind for problem in one.problems}
        )

    def summary(self) -> str:
        """For a terminal."""
        bad = [one for one in self.clips if one.problems]
        counts = self.count_problems()
        text = f"{len(self.clips):,} clips, {len(bad):,} with problems"
        if self.classes:
            sizes = [one.num_clips for one in self.classes]
            text += f"; {len(sizes):,} classes of {min(sizes):,} to {max(sizes):,} clips"
        text += "\n"
        if counts:
            rows = [
                {"problem": kind, "clips": counts[kind], "meaning": meaning}
                for kind, meaning in PROBLEMS.items()
                if counts[kind]
            ]
            text += table_text(rows)
        for one in bad[:20]:
            told = "; ".join(f"{p.kind}: {p.detail}" for p in one.problems)
            text += f"  {one.clip.path}: {told}\n"
        if len(bad) > 20:
            text += f"  and {len(bad) - 20:,} more\n"
        text += "".join(f"{fault}\n" for fault in self.faults)
        text += f"written: {self.out / CSV_NAME}, {self.out / PAGE_NAME}, {self.out / SKIP_NAME}"
        if any(one.left_out for one in bad):
            text += f"\nto train without them: --skip_list {self.out / SKIP_NAME}"
        return text


def check_collection(
    data: str | Path,
    out: str | Path,
    config: CheckConfig | None = None,
    *,
    reading: DataConfig | None = None,
) -> CheckResult:
    """Decode every clip of DATA, compare them, and write check.csv, check.html and skip.csv.

    What is known of a file from an earlier check in the same `out`, also an interrupted one, is
    used again while its size and time of change are the same.

    Args:
        data: what `load_collection` reads, or any folder of videos.
        out: folder for the results; made if it is not there.
        config: processes and timeout.
        reading: how DATA is read; by default as it lies there.

    Raises:
        FileNotFoundError: `data`, or what `reading` names, does not exist.
        ValueError: it cannot be read, has no videos, or `out` lies in it.
        OSError: `out` cannot be written.
    """
    data, out, config = Path(data), Path(out), config or CheckConfig()
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise ValueError(
            f"out folder {out} lies in {data}, where it would be taken for a class; "
            "choose another --out"
        )
    clips = load_clips(data, reading)
    out.mkdir(parents=True, exist_ok=True)
    cache = FactsCache(out / CACHE_NAME)
    paths = list(dict.fromkeys(clip.path for clip in clips.rows))
    facts = _inspect(paths, cache, config)
    cache.keep(paths)
    checked = judge(clips, facts)
    classes = count_classes(clips, checked)
    result = CheckResult(tuple(checked), tuple(classes), tuple(class_faults(clips, classes)), out)
    write_text(out / CSV_NAME, _csv(checked))
    write_text(out / SKIP_NAME, _skip_list(checked))
    write_text(out / PAGE_NAME, _page(result, data, config))
    return result


def _inspect(paths: Sequence[str], cache: FactsCache, config: CheckConfig) -> dict[str, FileFacts]:
    facts: dict[str, FileFacts] = {}
    stamps = {}
    for path in paths:
        known = cache.get(path)
        if known is not None:
            facts[path] = known
        else:
            stamps[path] = stamp_or_none(path)
    with progress_bar("checking clips", len(paths), completed=len(facts)) as bar:
        for path, found in run_supervised(
            inspect,
            stamps,
            num_workers=config.num_workers or default_num_workers(),
            timeout_seconds=config.timeout_seconds,
        ):
            if isinstance(found, Lost):  # perhaps the machine's fault: not remembered
                size = (stamps[path] or (None, None))[0]
                facts[path] = FileFacts((Problem(found.kind, found.detail),), bytes=size)
            else:
                facts[path] = found
                cache.add(path, stamps[path], found)
            bar.advance()
    return facts


def _csv(checked: Sequence[CheckedClip]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in checked:
        facts = one.facts.to_dict()
        writer.writerow(
            [
                one.clip.path,
                one.clip.split or "",
                "" if one.clip.label is None else one.clip.label,
                ";".join(problem.kind for problem in one.problems),
                "; ".join(problem.detail for problem in one.problems),
                _text(one.left_out),
                *(_text(facts[name]) for name in _FACT_COLUMNS),
            ]
        )
    return text.getvalue()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _skip_list(checked: Sequence[CheckedClip]) -> str:
    """As `--skip_list` reads it; a damaged file is left out wherever it is listed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "split", "reason"])
    rows = {
        (one.clip.path, one.clip.split or ""): one.problems[0].kind
        for one in checked
        if one.left_out
    }
    writer.writerows([path, split, reason] for (path, split), reason in rows.items())
    return text.getvalue()


def _page(result: CheckResult, data: Path, config: CheckConfig) -> str:
    shown = clips_shown(result.clips)
    strips = {}
    with progress_bar("drawing clips", len(shown)) as bar:
        for path, found in run_supervised(
            show,
            shown,
            num_workers=config.num_workers or default_num_workers(),
            timeout_seconds=config.timeout_seconds,
        ):
            strips[path] = [] if isinstance(found, Lost) else found
            bar.advance()
    return check_page(
        str(data), result.clips, result.classes, result.faults, result.count_problems(), strips
    )
