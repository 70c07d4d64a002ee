"""The command line: parses and calls, holds no logic.

Flags and YAML come from the same dataclasses. The settings that people change most have short flags
(`SHORT_FLAGS`); every other setting has its place in the tree as its name (`--method.width 192`).
Bad input ends in one sentence and exit code 2, a failed run in one sentence and exit code 1.
"""

from stadapter.cli.main import main, run
from stadapter.cli.verbs import VERBS

__all__ = ["VERBS", "main", "run"]
