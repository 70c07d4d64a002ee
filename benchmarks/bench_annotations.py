"""How long a million clips take to load, and what they cost in every data worker.

    python benchmarks/bench_annotations.py [--rows 1000000] [--workers 4]

Writes a CSV with path, label and split (400 classes, names as Kinetics has them), loads it with one
thread, then forks workers that read every path and label. Prints what each worker's private memory
grew by (Linux only), then one JSON line.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stadapter.data import ClipTable, load_collection

MB = 1e6


def main() -> None:
    """Write, load, fork, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    with TemporaryDirectory() as name:
        file = write_list(Path(name), args.rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        collection = load_collection(file)
        seconds = time.perf_counter() - start
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MB
    table = collection.splits["train"]
    gc.collect()
    grown = [walk_in_fork(table) / MB for _ in range(args.workers)]
    result = {
        "benchmark": "annotations",
        "rows": args.rows,
        "seconds": round(seconds, 3),
        "peak_mb": round(peak, 1),
        "worker_private_mb": [round(mb, 1) for mb in grown],
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }
    print(f"{args.rows:,} rows loaded in {seconds:.2f} s, peak memory +{peak:.0f} MB")
    for i, mb in enumerate(grown):
        print(f"worker {i}: private memory grew by {mb:.1f} MB while it read every clip")
    print(json.dumps(result))


def write_list(folder: Path, rows: int) -> Path:
    """A CSV of that many clips; the first of them exists, as loading looks for some."""
    names = [f"class{k % 400:03d}/video{k:08d}_000010_000020.mp4" for k in range(rows)]
    first = folder / names[0]
    first.parent.mkdir()
    first.touch()
    file = folder / "clips.csv"
    with file.open("w", encoding="utf-8") as stream:
        stream.write("path,label,split\n")
        for k, name in enumerate(names):
            stream.write(f"{name},class {k % 400:03d},{'val' if k % 10 == 0 else 'train'}\n")
    return file


def walk_in_fork(table: ClipTable) -> float:
    """Bytes by which a forked process's private memory grows while it reads every clip."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_walk, args=(table, sender))
    process.start()
    grown = float(receiver.recv())
    process.join()
    return grown


def _walk(table: ClipTable, sender: Any) -> None:
    before = private_bytes()
    total = 0
    for clip in range(len(table)):
        total += len(table.paths[clip]) + int(table.labels[clip])
    sender.send(private_bytes() - before)


def private_bytes() -> int:
    """Memory of this process that no other shares."""
    text = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text(encoding="utf-8")
    return 1024 * sum(
        int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")
    )


if __name__ == "__main__":
    main()
