"""Cross-validation by hand-made folds: train and score one run per list, then mean and spread.

    python benchmarks/bench_folds.py FOLD0.csv FOLD1.csv ... --out DIR [--config RECIPE]
        [--seeds 0 1 2] [-- any flags of `stadapter train`]

Each list has a `split` column of its own. A run that is finished is not repeated, one that was
killed is resumed, so the command can be given again. The last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any


def train(data: Path, run: Path, flags: list[str]) -> dict[str, Any]:
    """Scores of the finished run of one list; trains it first if need be."""
    metrics = run / "metrics.json"
    if not metrics.is_file():
        resume = ["--resume"] if (run / "recipe.yaml").is_file() else []
        command = [sys.executable, "-m", "stadapter", "train", str(data), "--out", str(run)]
        subprocess.run([*command, *resume, *flags], check=True)
    found: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    own, flags = sys.argv[1:], []
    if "--" in own:
        cut = own.index("--")
        own, flags = own[:cut], own[cut + 1 :]
    settings = parser.parse_args(own)
    if settings.config:
        flags = ["--config", settings.config, *flags]
    rows = []
    for seed in settings.seeds:
        for data in settings.lists:
            run = settings.out / f"{data.stem}_seed{seed}"
            metrics = train(data, run, [*flags, "--train.seed", str(seed)])
            top1, clips = metrics["top1"], metrics["num_clips"]
            rows.append({"list": data.stem, "seed": seed, "top1": top1, "num_clips": clips})
            print(f"{data.stem:24} seed {seed}  top-1 {top1:.3f}  of {clips} clips")
    scores = [row["top1"] for row in rows]
    mean = statistics.mean(scores)
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    print(f"mean {mean:.3f}, standard deviation {spread:.3f}, n {len(scores)}")
    print(json.dumps({"mean_top1": mean, "std_top1": spread, "runs": rows}))


if __name__ == "__main__":
    main()
