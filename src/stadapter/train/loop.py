"""The training loop, and resuming it.

AdamW on what the method declares as trained, linear warm-up and cosine to zero, learning rate per
256 clips, no decay on biases and norms (the published recipe, paper §4). The loop knows nothing
about video files, methods or what labels mean. What a run needs to go on after an interruption is
in `State`; together with clips that depend on (seed, epoch, clip) and mixing that depends on (seed,
step) alone, a resumed run repeats the uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stadapter.checkpoint import load_adapter_config, load_tensors
from stadapter.data import (
    AugmentConfig,
    Batch,
    BrokenLimit,
    ClipDataset,
    ClipTable,
    EpochSampler,
    LabelSpace,
    Mirror,
    Preprocessing,
    SamplingConfig,
    TrainReader,
    collate,
    make_loader,
    merge_broken,
    naming_killed_workers,
    write_broken,
)
from stadapter.device import default_num_workers
from stadapter.evaluate import Scores
from stadapter.interrupt import Signals, Terminated, caught_signals
from stadapter.model import VideoClassifier
from stadapter.progress import Bar, console, progress_bar
from stadapter.ranks import Ranks, join_ranks
from stadapter.run import RunFolder
from stadapter.tasks import make_task
from stadapter.train.config import TrainConfig
from stadapter.train.log import RunLog
from stadapter.train.optimizer import lr_schedule
from stadapter.train.state import State, read_state, write_state
from stadapter.train.update import Updater

WAITING_HINT = 0.2
"""Share of the time that the model may wait for clips before the run says what helps."""


class Trainer:
    """A model, its optimiser and its clips; `run()` trains to the end."""

    def __init__(
        self,
        model: VideoClassifier,
        table: ClipTable,
        *,
        config: TrainConfig,
        sampling: SamplingConfig,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        run: RunFolder,
        validate: Callable[[VideoClassifier], Scores],
        ranks: Ranks | None = None,
    ) -> None:
        """Put the model on its device and build loader and optimiser.

        Args:
            model: trained in place; its `info.space` says what a label is.
            table: training clips.
            config: settings of the loop.
            sampling: which frames make a clip.
            preprocessing: resolution and pixel statistics.
            augment: random changes to training clips.
            run: folder for log, state and adapters; must be prepared.
            validate: scores the model on the validation clips; called by every rank.
            ranks: the processes that train together; by default those that torchrun started.
        """
        self.task = make_task(model.adapter_set.info.space)
        self.task.check_smoothing(config.label_smoothing)
        self.ranks = ranks = ranks or join_ranks(config.device)
        self.model = model
        self.table = table
        self.config = config
        self.folder = run
        self.validate = validate
        self.state = State()
        self.mirror = mirror(augment, self.task.space)
        self.updater = Updater(
            model,
            table,
            config=config,
            blank=(1, sampling.num_frames, 3, *preprocessing.resolution),
            preprocessing=preprocessing,
            mirror=self.mirror,
            ranks=ranks,
        )
        labels = torch.as_tensor(table.labels)
        self.sampler = EpochSampler(
            len(table),
            shuffle=True,
            seed=config.seed,
            rank=ranks.rank,
            num_ranks=ranks.num_ranks,
            weights=self.task.clip_weights(labels).numpy() if config.balance == "sampler" else None,
        )
        workers = default_num_workers() if config.num_workers is None else config.num_workers
        self.dataset = ClipDataset(
            table,
            TrainReader(sampling, preprocessing, augment, config.seed),
            on_broken=config.on_broken,
            decode_timeout_seconds=config.decode_timeout_seconds,
        )
        self.loader = make_loader(
            self.dataset,
            self.sampler,
            batch_size=config.batch_size,
            num_workers=workers,
            pin_memory=ranks.device.type == "cuda",
        )
        self.clips_per_step = config.batch_size * config.accumulation_steps * ranks.num_ranks
        self.steps_per_epoch = math.ceil(len(table) / self.clips_per_step)
        self.limit = BrokenLimit(len(table), config.max_broken, config.on_broken)
        self.log = RunLog(run, config.trackers) if ranks.is_main else None
        self.saved_at = time.monotonic()
        if ranks.rank:  # each rank drops out other features; alone it is as the seed says
            torch.manual_seed(config.seed + 2**32 * ranks.rank)

    @property
    def headline(self) -> str:
        """What the task's headline number on the validation clips is called in log and file."""
        return f"val_{next(iter(self.task.numbers))}"

    @property
    def step(self) -> int:
        """Steps done since the beginning of the run."""
        return self.state.epoch * self.steps_per_epoch + self.state.step_in_epoch

    @property
    def waited_for_data(self) -> float | None:
        """Share of the time of all steps in which the model waited for clips; None without any."""
        state = self.state
        return round(state.data_seconds / state.step_seconds, 4) if state.step_seconds else None

    def run(self) -> Scores:
        """Train until the last epoch is done; returns the last validation.

        Ctrl-C and SIGTERM save the position first, so that `resume` goes on at this step.

        Raises:
            TooManyBrokenError: more unreadable clips than `config.max_broken`.
            WorkerKilledError: the system killed a process that reads clips.
            FloatingPointError: the loss or its gradient is no longer a number.
            OSError: the state cannot be written; the ones before are kept.
            Terminated: SIGTERM came, and the position is saved.
        """
        scores = None
        total = self.config.epochs * self.steps_per_epoch
        try:
            with (
                progress_bar("training", total, completed=self.step) as bar,
                caught_signals() as signals,
            ):
                while self.state.epoch < self.config.epochs:
                    try:
                        with (
                            signals.held(),
                            naming_killed_workers(self.dataset.whereabouts, self.table.paths),
                        ):
                            self._train_epoch(bar, signals)
                    finally:
                        self._write_broken()
                    self.limit.check(self.state.broken.values())
                    scores = self._finish_epoch()
        finally:
            if self.log is not None:
                self.log.close()
        self._say_waiting()
        if self.config.keep == "best":
            return self._restore_best()
        return scores or self._validate()

    def _train_epoch(self, bar: Bar, signals: Signals) -> None:
        """The steps of an epoch that are left; stops early, saved, after a signal."""
        state, config = self.state, self.config
        self.model.train()
        self.sampler.epoch = state.epoch
        self.sampler.skip = state.clips_in_epoch
        before = time.perf_counter()
        for batches in self._steps(signals):
            ready = time.perf_counter()
            num_clips = self._count(batches)
            line: dict[str, Any] = {"step": self.step, "epoch": state.epoch}
            if num_clips:
                line |= self.updater.update(
                    batches,
                    num_clips,
                    step=self.step,
                    epoch=state.epoch,
                    lr_factor=lr_schedule(self.step, self.steps_per_epoch, config),
                )
                state.loss_sum += line["loss"]
                state.loss_count += 1
            state.step_in_epoch += 1
            state.clips_in_epoch = min(state.clips_in_epoch + self.clips_per_step, len(self.table))
            state.clips += num_clips
            now = time.perf_counter()
            line["clips_per_second"] = round(num_clips / (now - before), 2)
            line["data_seconds"] = round(ready - before, 4)
            state.data_seconds += ready - before
            state.step_seconds += now - before
            self._log(line)
            before = now
            bar.advance()
            bar.describe(
                f"epoch {state.epoch + 1}/{config.epochs}  loss {line.get('loss', math.nan):.3f}  "
                f"{line['clips_per_second']:.1f} clips/s"
            )
            if self.ranks.any(signals.pending):
                signals.kind = signals.kind or Terminated  # it may have come to other ranks only
                break
            due = time.monotonic() - self.saved_at >= 60 * config.save_every_minutes
            if self.ranks.any(due and self.ranks.is_main):
                self.save_state()
        self.save_state()  # also before validation, which may take longer than a system waits

    def _steps(self, signals: Signals) -> Iterator[list[Batch]]:
        """The batches of each step that is left of the epoch; the same number on every rank."""
        batches = iter(self.loader)
        left = len(self.table) - self.state.clips_in_epoch
        while left > 0:
            clips = min(left, self.clips_per_step)
            count = math.ceil(clips / (self.config.batch_size * self.ranks.num_ranks))
            try:
                step = [next(batches, collate([])) for _ in range(count)]
            except RuntimeError:
                # SIGTERM for all processes of a job ends the workers too, perhaps before us.
                if not signals.pending or self.ranks.num_ranks > 1:
                    raise
                return
            yield step
            left -= clips

    def _count(self, batches: list[Batch]) -> int:
        """Clips of this step on all ranks; takes note of those that could not be read."""
        broken = [clip for batch in batches for clip in batch.broken]
        num_clips = sum(len(batch.clips) for batch in batches)
        total, num_broken = self.ranks.sum(num_clips, len(broken))
        if num_broken:
            for of_rank in self.ranks.gather(broken):
                merge_broken(self.state.broken, of_rank)
            self.limit.check(self.state.broken.values())
        return int(total)

    def _finish_epoch(self) -> Scores | None:
        """Validate, keep what is best, write the adapters and the state."""
        state, config = self.state, self.config
        line: dict[str, Any] = {"step": (state.epoch + 1) * self.steps_per_epoch}
        line["epoch"] = state.epoch + 1
        line["train_loss"] = state.loss_sum / state.loss_count if state.loss_count else None
        scores = None
        if line["epoch"] % config.eval_every == 0 or line["epoch"] == config.epochs:
            scores = self._validate()
            line[self.headline] = scores.headline
            self._note_scores(scores.headline, len(scores.labels), line["epoch"])
        state.epoch += 1
        state.step_in_epoch = state.clips_in_epoch = 0
        state.loss_sum, state.loss_count = 0.0, 0
        # Undefined counts as 0, so that there is a best epoch in any case.
        best = scores is not None and (scores.headline or 0.0) > state.best
        if scores is not None and best:
            state.best = scores.headline or 0.0
        tensors = self.updater.kept_tensors()
        if self.ranks.is_main:
            self.model.save_pretrained(self.folder.path, tensors=tensors)
            if best:
                self.model.save_pretrained(self.folder.state / "best", tensors=tensors)
        self._log(line)
        self.save_state()
        return scores

    def _validate(self) -> Scores:
        average = self.updater.average
        with average.in_place() if average else nullcontext():
            return self.validate(self.model)

    def _write_broken(self) -> None:
        if self.ranks.is_main:
            write_broken(self.folder.broken, "train", self.state.broken.values())

    def _say_waiting(self) -> None:
        share = self.waited_for_data
        if share is None:
            return
        text = f"the model waited for clips {share:.0%} of the time"
        if share > WAITING_HINT:
            text += (
                f": use more --num_workers (now {self.loader.num_workers}) if there are cores "
                "left, or make the files faster to read with stadapter prepare"
            )
        console.print(text)

    def _note_scores(self, value: float | None, num_clips: int, epoch: int) -> None:
        adapter_set = self.model.adapter_set
        noted = {self.headline: value, "num_clips": num_clips, "epoch": epoch}
        adapter_set.info = replace(adapter_set.info, scores=noted)

    def _restore_best(self) -> Scores:
        self.ranks.wait()  # for the files of the last epoch
        best = self.folder.state / "best"
        config = load_adapter_config(best)
        tensors = load_tensors(best, config)
        self.updater.set_weights(tensors)
        self.model.adapter_set.info = config.info
        if self.ranks.is_main:
            self.model.save_pretrained(self.folder.path, tensors=tensors)
        return self.validate(self.model)

    def _log(self, line: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)
            self.state.log_lines = self.log.num_lines

    def save_state(self) -> None:
        """Write everything that resuming needs, atomically; every rank must call it.

        Raises:
            OSError: it cannot be written; the states that were there are kept.
        """
        content = {
            "state": self.state.to_dict(),
            "num_ranks": self.ranks.num_ranks,
            "rng": self.ranks.gather(_random_state(self.ranks.device)),
            "updater": self.updater.state_dict(),
        }
        if self.ranks.is_main:
            write_state(self.folder.last_state, self.folder.previous_state, content)
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on where the folder's newest readable state says; from the beginning if there is
        none.

        Raises:
            ValueError: there are states, and all are damaged.
        """
        content, problems = read_state(self.folder.last_state, self.folder.previous_state)
        for problem in problems:
            console.print(f"{problem}; going on from the state before", markup=False)
        if content is None:
            console.print(f"{self.folder.path} has no state yet; starting anew", markup=False)
            if self.log is not None:
                self.log.cut(0)
            return
        self.updater.load_state_dict(content["updater"])
        self.state = State.from_dict(content["state"])
        if content["num_ranks"] == self.ranks.num_ranks:
            _set_random_state(content["rng"][self.ranks.rank], self.ranks.device)
        else:
            self._say_other_ranks(content["num_ranks"])
        if self.log is not None:
            self.log.cut(self.state.log_lines)
        if self.state.epoch >= self.config.epochs:
            console.print(f"{self.folder.path} has finished all {self.config.epochs} epochs")
            return
        console.print(
            f"resuming at epoch {self.state.epoch + 1} of {self.config.epochs}, step {self.step}"
        )

    def _say_other_ranks(self, before: int) -> None:
        """The clips of this epoch that are left are trained on, in steps of another size."""
        state, now = self.state, self.ranks.num_ranks
        state.step_in_epoch = round(state.clips_in_epoch / self.clips_per_step)
        console.print(
            f"this run was begun with {before} processes and goes on with {now}: every clip still "
            f"comes once an epoch, but a step has {self.clips_per_step} clips instead of "
            f"{self.clips_per_step // now * before} (and the learning rate goes with it), steps "
            "are numbered anew, and dropout and mixing draw other numbers; the result is no "
            "longer that of an uninterrupted run"
        )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """What dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def mirror(augment: AugmentConfig, space: LabelSpace) -> Mirror | None:
    """How training clips are flipped; None if they are not."""
    return None if augment.flip == "off" else Mirror(space, swaps=augment.flip == "auto")
