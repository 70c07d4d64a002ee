"""How sure the numbers are: intervals, calibration, and the same numbers for parts of the clips."""

from stadapter.metrics.bootstrap import bootstrap, bootstrap_intervals, interval95
from stadapter.metrics.calibration import calibration, reliability
from stadapter.metrics.groups import by_duration, by_source, group_scores

__all__ = [
    "bootstrap",
    "bootstrap_intervals",
    "by_duration",
    "by_source",
    "calibration",
    "group_scores",
    "interval95",
    "reliability",
]
