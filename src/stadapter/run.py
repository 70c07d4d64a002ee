"""The run folder: names of what a run leaves behind, and when a folder may be written."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stadapter.checkpoint import CONFIG, TENSORS
from stadapter.hub import CARD, is_model_card


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """Every setting, resolved."""
        return self.path / "recipe.yaml"

    @property
    def split(self) -> Path:
        """The clips of each split, as a CSV that `train` and `eval` take as DATA."""
        return self.path / "split.csv"

    @property
    def log(self) -> Path:
        """A JSON line per step and per epoch."""
        return self.path / "log.jsonl"

    @property
    def metrics(self) -> Path:
        """Scores of the last evaluation."""
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        """A line per scored clip of the last evaluation."""
        return self.path / "predictions.csv"

    @property
    def broken(self) -> Path:
        """Clips that training and the last evaluation skipped or salvaged."""
        return self.path / "broken.csv"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def state(self) -> Path:
        """Folder with what resuming needs, and the best epoch's adapters."""
        return self.path / "state"

    @property
    def last_state(self) -> Path:
        """Weights, optimiser and position after the last finished epoch or interruption."""
        return self.state / "last.pt"

    @property
    def previous_state(self) -> Path:
        """The one before, in case the last one is damaged."""
        return self.state / "previous.pt"

    @property
    def events(self) -> Path:
        """Folder that TensorBoard reads."""
        return self.path / "events"

    def exists(self) -> bool:
        """Whether the folder already holds a run, or the beginning of one."""
        return any(p.exists() for p in (self.recipe, self.state, self.path / CONFIG))

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready to be written.

        Overwriting deletes the files of the old run by name and nothing else.

        Raises:
            FileExistsError: it holds a run and neither `resume` nor `overwrite` was asked for.
            FileNotFoundError: `resume`, but there is no run.
            ValueError: both were asked for.
            PermissionError: the folder cannot be written.
        """
        if resume and overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        if resume and not self.exists():
            raise FileNotFoundError(f"{self.path} holds no run to resume; leave out --resume")
        if self.exists() and not resume and not overwrite:
            raise FileExistsError(
                f"{self.path} already holds a run; continue it with --resume, replace it with "
                "--overwrite, or choose another --out"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise PermissionError(f"folder {self.path} cannot be written: {reason}") from error
        if overwrite:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        names = (TENSORS, CONFIG, self.events.name, self.broken.name)
        if is_model_card(self.path / CARD):
            (self.path / CARD).unlink()
        files = [self.recipe, self.split, self.log, self.metrics, self.predictions, self.report]
        for path in files + [self.path / name for name in names]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
