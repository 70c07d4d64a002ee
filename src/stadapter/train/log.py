"""The log of a run: a JSON line per step and epoch, and the same to trackers."""

import json
from typing import Any

from stadapter.atomic import write_text
from stadapter.run import RunFolder
from stadapter.train.config import TrackerName

EXTRAS: dict[TrackerName, str] = {
    "tensorboard": "TensorBoard",
    "wandb": "Weights & Biases",
    "mlflow": "MLflow",
}
"""Name of a tracker, which is that of its extra -> what people call it."""


class RunLog:
    """log.jsonl, and the trackers that were asked for, by Accelerate."""

    def __init__(self, run: RunFolder, trackers: tuple[TrackerName, ...]) -> None:
        """Connect to the trackers; the run folder must be prepared.

        Raises:
            ImportError: the extra of a tracker is not installed.
        """
        self.path = run.log
        self.num_lines = 0
        self.trackers = [_connect(name, run) for name in trackers]

    def cut(self, num_lines: int) -> None:
        """Drop what a killed run logged after the state it goes on from."""
        self.num_lines = num_lines
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.path, "".join(lines[:num_lines]))

    def write(self, line: dict[str, Any]) -> None:
        """One line, at once; `line["step"]` is its step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.num_lines += 1
        values = {k: v for k, v in line.items() if k != "step" and isinstance(v, (int, float))}
        for tracker in self.trackers:
            tracker.log(values, step=line["step"])

    def close(self) -> None:
        """Let the trackers send what they still hold."""
        for tracker in self.trackers:
            tracker.finish()


def check_trackers(trackers: tuple[TrackerName, ...]) -> None:
    """Refuse trackers whose packages are missing.

    Raises:
        ImportError: with the extra to install.
    """
    from accelerate.utils import imports

    for name in trackers:
        if not getattr(imports, f"is_{name}_available")():
            raise ImportError(f"{EXTRAS[name]} is missing; pip install 'stadapter[{name}]'")


def _connect(name: TrackerName, run: RunFolder) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    check_trackers((name,))
    PartialState()  # the trackers ask it which process this is
    title = run.path.absolute().name
    if name == "tensorboard":
        tracker = TensorBoardTracker(run.events.name, str(run.path))
    elif name == "wandb":
        tracker = WandBTracker("stadapter", dir=str(run.path), name=title)
    else:  # where it writes is said by its own MLFLOW_TRACKING_URI
        tracker = MLflowTracker("stadapter", run_name=title)
    tracker.start()
    return tracker
