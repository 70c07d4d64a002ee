"""Two runs on the same clips: differences with their intervals, and who is right where.

The difference of two scores on the same clips is known better than either score, because most clips
are as easy or hard for both; so clips are resampled for both runs together (paired bootstrap). For
top-1 alone there is also McNemar's exact test (1947), which looks only at clips that one run gets
right and the other wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stadapter.compare.runs import ScoredRun, align, clip_names, load_runs
from stadapter.metrics import bootstrap, interval95
from stadapter.metrics.bootstrap import SEED, default_resamples


@dataclass(frozen=True)
class Difference:
    """A number of one run minus that of the baseline."""

    value: float
    interval95: list[float]
    """Of the paired bootstrap."""
    p_value: float
    """Two-sided: how often a resample has the difference at or beyond zero, doubled."""


@dataclass(frozen=True)
class Against:
    """A run beside the baseline."""

    differences: dict[str, Difference]
    """Number -> difference, without numbers that are not defined."""
    won: tuple[int, ...]
    """Clips that the run gets right, in all parts of the label, and the baseline wrong."""
    lost: tuple[int, ...]
    """The other way round."""
    both_right: int
    both_wrong: int
    mcnemar_p: float
    """Two-sided, exact: of so uneven a share of `won` and `lost` by chance."""


@dataclass(frozen=True)
class Comparison:
    """Runs on the same clips; the first is the baseline."""

    runs: tuple[ScoredRun, ...]
    numbers: tuple[dict[str, float | None], ...]
    """Of each run: entry of metrics.json -> value on these clips."""
    intervals: tuple[dict[str, list[float] | None], ...]
    """Of each run: 95% intervals of the bootstrap; of the headline, if it is a share of the clips,
    Wilson's, which holds for scores near 0 and 100% too."""
    against: tuple[Against, ...]
    """Of each run but the first."""
    clips: tuple[str, ...]
    """Name of each clip."""
    num_left_out: tuple[int, ...]
    """Of each run: clips it was scored on that others were not."""
    resamples: int
    seed: int

    @property
    def baseline(self) -> ScoredRun:
        """The run that the others are measured against."""
        return self.runs[0]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        paths = [clip[0] for clip in self.baseline.files]
        others: list[dict[str, Any]] = [{}]
        for against in self.against:
            differences = {name: vars(d) for name, d in against.differences.items()}
            clips = {"won": against.won, "lost": against.lost}
            others.append(
                {
                    "differences": differences,
                    **{name: [paths[i] for i in some] for name, some in clips.items()},
                    "both_right": against.both_right,
                    "both_wrong": against.both_wrong,
                    "mcnemar_p": against.mcnemar_p,
                }
            )
        rows = zip(self.runs, self.numbers, self.intervals, self.num_left_out, others, strict=True)
        return {
            "baseline": self.baseline.name,
            "num_clips": len(paths),
            "resamples": self.resamples,
            "seed": self.seed,
            "runs": [
                {
                    "run": run.name,
                    "numbers": numbers,
                    "interval95": intervals,
                    "num_left_out": left_out,
                    **other,
                }
                for run, numbers, intervals, left_out, other in rows
            ],
        }


def compare_runs(
    paths: Sequence[str | Path],
    *,
    common: bool = False,
    resamples: int | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare scored runs with the first of them.

    Args:
        paths: run folders, at least two.
        common: compare on the clips that all runs scored, where their lists differ.
        resamples: of the bootstrap; by default 1000, or fewer as in metrics.json.
        seed: of the resamples.

    Raises:
        FileNotFoundError: a run that was not scored.
        ValueError: fewer than two runs, or runs that cannot be compared.
    """
    if len(paths) < 2:
        raise ValueError(f"a comparison needs at least two runs, {len(paths)} given")
    loaded = load_runs(paths)
    runs = align(loaded, common=common)
    task, labels = runs[0].task, runs[0].labels
    resamples = default_resamples(task, len(labels)) if resamples is None else resamples
    draws = [
        bootstrap(task, run.probabilities, labels, resamples=resamples, seed=seed) for run in runs
    ]
    metrics = [task.metrics(run.probabilities, labels) for run in runs]
    numbers = [{name: found[name] for name in task.numbers} for found in metrics]
    right = [task.correct(run.probabilities, labels) for run in runs]
    return Comparison(
        runs=tuple(runs),
        numbers=tuple(numbers),
        intervals=tuple(map(_intervals, metrics, draws)),
        clips=tuple(clip_names(runs[0])),
        against=tuple(
            _against((numbers[0], numbers[i]), (draws[0], draws[i]), (right[0], right[i]))
            for i in range(1, len(runs))
        ),
        num_left_out=tuple(len(run.files) - len(labels) for run in loaded),
        resamples=resamples,
        seed=seed,
    )


def _intervals(metrics: dict[str, Any], draws: dict[str, Tensor]) -> dict[str, list[float] | None]:
    found = {name: interval95(values) for name, values in draws.items()}
    wilson = {name: metrics.get(f"{name}_interval95") for name in draws}
    return found | {name: list(ends) for name, ends in wilson.items() if ends}


def _against(
    numbers: tuple[dict[str, float | None], dict[str, float | None]],
    draws: tuple[dict[str, Tensor], dict[str, Tensor]],
    right: tuple[Tensor, Tensor],
) -> Against:
    """Pairs are (baseline, run)."""
    differences = {}
    for name in draws[0]:
        before, after = numbers[0][name], numbers[1][name]
        if before is not None and after is not None:
            found = draws[1][name] - draws[0][name]
            differences[name] = Difference(
                after - before, interval95(found) or [0.0, 0.0], p_value(found)
            )
    won, lost = right[1] & ~right[0], right[0] & ~right[1]
    return Against(
        differences=differences,
        won=tuple(won.nonzero()[:, 0].tolist()),
        lost=tuple(lost.nonzero()[:, 0].tolist()),
        both_right=int((right[0] & right[1]).sum()),
        both_wrong=int((~right[0] & ~right[1]).sum()),
        mcnemar_p=mcnemar(int(won.sum()), int(lost.sum())),
    )


def p_value(differences: Tensor) -> float:
    """Two-sided, from resampled differences, float (R,); never 0, since R is finite."""
    known = differences[~differences.isnan()]
    fewest = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (fewest + 1) / (len(known) + 1))


def mcnemar(won: int, lost: int) -> float:
    """Two-sided probability that a fair coin falls as unevenly as `won` to `lost`.

    >>> mcnemar(0, 0), mcnemar(5, 0), mcnemar(3, 3)
    (1.0, 0.0625, 1.0)
    """
    n = won + lost
    ways = tail = 1
    for k in range(min(won, lost)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def per_class(run: ScoredRun) -> dict[str, Tensor]:
    """Vocabulary -> score of each class (recall; average precision of a multi_label task), float64
    (K,) with nan for classes without clips."""
    metrics = run.task.metrics(run.probabilities, run.labels)
    keys = {"label": "recall_per_class"} if run.task.exclusive else {"label": "average_precision"}
    if run.space.task == "verb_noun":
        keys = {kind: f"{kind}_recall_per_class" for kind in ("verb", "noun")}
    return {
        kind: torch.tensor([torch.nan if x is None else x for x in metrics[key]]).double()
        for kind, key in keys.items()
    }
