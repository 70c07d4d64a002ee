"""What the processes of a check do with one file.

They never say that they are alive, so the time limit is for the whole file.
"""

import numpy as np
from numpy.typing import NDArray

from stadapter.check.decode import FileFacts, frames_shown, inspect_file
from stadapter.workers import Alive


def inspect(path: str, _alive: Alive) -> FileFacts:
    """`inspect_file` in a process of its own."""
    return inspect_file(path)


def show(path: str, _alive: Alive) -> list[NDArray[np.uint8]]:
    """`frames_shown` in a process of its own."""
    return frames_shown(path)
