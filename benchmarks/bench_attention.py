"""Does a trained model look at what moves? Frozen against adapted, over the clips of a test.

    python benchmarks/bench_attention.py RUN [RUN ...] [--block 12]

For each clip in a run's predictions.csv: how much more than the average patch the patches move that
the mean map weighs (`stadapter.visualize.motion.motion_seen`; 1 is no preference), frozen and
adapted, in one block. Give the runs of a cross-validation to have each clip scored by a model that
was not trained on it. The interval is a 95% bootstrap over clips (10,000 draws, seed 0).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stadapter.results import read_predictions
from stadapter.visualize import VisualizeConfig, observe
from stadapter.visualize.motion import motion_seen

Numbers = NDArray[np.float64]


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--block", type=int)
    parser.add_argument("--backbone_weights", type=Path)
    options = parser.parse_args()
    config = VisualizeConfig(block=options.block)
    pairs = []
    for run in options.runs:
        for row in read_predictions(run / "predictions.csv"):
            shown = observe(
                run, row["path"], config, backbone_weights=options.backbone_weights, device="cpu"
            )
            models = (shown.frozen[shown.block], shown.adapted[shown.block])
            seen = [motion_seen(maps.mean, shown.frames) for maps in models]
            if None not in seen:
                pairs.append(seen)
    values = np.array(pairs, dtype=np.float64)  # (clips, 2)
    columns = {
        "frozen": values[:, 0],
        "adapted": values[:, 1],
        "difference": values[:, 1] - values[:, 0],
    }
    print(f"{len(values)} clips, {shown.kind}, block {shown.block + 1} of {shown.depth}")
    print(f"{'':<12}{'mean':>8}{'95% interval':>18}{'sd':>8}")
    results = {}
    for name, column in columns.items():
        low, high = interval(column)
        results[name] = {"mean": column.mean(), "low": low, "high": high, "sd": column.std(ddof=1)}
        between = f"{low:.2f} to {high:.2f}"
        print(f"{name:<12}{column.mean():>8.2f}{between:>18}{column.std(ddof=1):>8.2f}")
    share = float((columns["difference"] > 0).mean())
    print(f"adapted above frozen in {share:.1%} of the clips")
    facts = {"clips": len(values), "kind": shown.kind, "block": shown.block + 1, "above": share}
    print(json.dumps({**facts, **results}))


def interval(column: Numbers) -> tuple[float, float]:
    """95% bootstrap interval of the mean."""
    draws = np.random.default_rng(0).integers(len(column), size=(10_000, len(column)))
    low, high = np.quantile(column[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
