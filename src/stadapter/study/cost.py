"""What a study costs: first an estimate, then as measured.

The estimate is made when the first run has finished: the time of a run is taken to grow with its
epochs and clips, at the rate of the finished runs of its entry or, without one, of all finished
runs. It gets better with each run; the first one is kept, to be compared with what came out.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stadapter.atomic import write_json
from stadapter.study.plan import StudyRun


@dataclass
class Cost:
    """Wall times in seconds; kept in cost.json."""

    runs: dict[str, float] = field(default_factory=dict)
    """Name of a run -> time of its processes, over all attempts that ended by themselves."""
    estimate: float | None = None
    """First estimate of the time of all runs together, if one ran after the other."""
    estimated_from: str = ""
    """The run that it was made from."""
    wall: float = 0.0
    """Time of the study itself, over all calls, up to the last run that ended."""

    def add(self, run: StudyRun, seconds: float) -> None:
        """Count the time of a run that has ended."""
        self.runs[run.name] = self.runs.get(run.name, 0.0) + seconds

    def expected(self, runs: Iterable[StudyRun], finished: Iterable[StudyRun]) -> float | None:
        """Seconds that `runs` take together; None before any has finished."""
        rates: dict[str, list[float]] = {}
        for run in finished:
            if run.name in self.runs:
                rate = self.runs[run.name] / run.cell.work
                rates.setdefault(run.cell.entry, []).append(rate)
        if not rates:
            return None
        of_all = statistics.fmean(rate for group in rates.values() for rate in group)
        means = {entry: statistics.fmean(group) for entry, group in rates.items()}
        return sum(means.get(run.cell.entry, of_all) * run.cell.work for run in runs)

    @property
    def measured(self) -> float:
        """Time of all runs together."""
        return sum(self.runs.values())

    def save(self, path: Path) -> None:
        """Write it atomically."""
        write_json(path, asdict(self) | {"measured": self.measured})

    @classmethod
    def load(cls, path: Path) -> "Cost":
        """What was saved; nothing if there is no file.

        Raises:
            ValueError: the file was changed by hand into something else.
        """
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("measured", None)
            return cls(**content)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no record of a study's cost; delete it") from error
