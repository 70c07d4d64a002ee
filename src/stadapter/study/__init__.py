"""Grids of runs and the figures of the paper (Pan et al., NeurIPS 2022, Fig 2 and the ablations).

Rooms: `config` reads the YAML, `plan` makes runs of it, `pool` trains them in processes (`child`),
`results` makes tables, `figures` and `page` show them, `study` joins all.
"""

from stadapter.study.config import StudyConfig, find_study, read_study
from stadapter.study.study import Outcome, run_study

__all__ = ["Outcome", "StudyConfig", "find_study", "read_study", "run_study"]
