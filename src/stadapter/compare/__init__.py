"""Runs beside each other on the very same clips: what differs, and is it more than chance?

Everything is computed from predictions.csv of each run, where probabilities have six decimals.
Files: `runs` reads and aligns, `paired` tests, `page` and `text` show.
"""

from stadapter.compare.page import write_comparison
from stadapter.compare.paired import Comparison, compare_runs
from stadapter.compare.text import comparison_text

__all__ = ["Comparison", "compare_runs", "comparison_text", "write_comparison"]
