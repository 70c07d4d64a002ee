"""Training: one visible loop.

AdamW on what the method declares as trained, linear warm-up and cosine to zero, learning rate per
256 clips, no decay on biases and norms (the published recipe, paper §4). The loop knows nothing
about video files, methods or what labels mean. What a run needs to go on after an interruption is
in `State`; together with clips that depend on (seed, epoch, clip) and mixing that depends on (seed,
step) alone, a resumed run repeats the uninterrupted one.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from stadapter.atomic import atomic_path, write_text
from stadapter.checkpoint import load_adapter_config, load_tensors
from stadapter.data import (
    AugmentConfig,
    BrokenClip,
    BrokenLimit,
    ClipDataset,
    ClipTable,
    EpochSampler,
    LabelSpace,
    Mirror,
    OnBroken,
    Preprocessing,
    SamplingConfig,
    TrainReader,
    draw_mixing,
    flipped_clips,
    make_loader,
    merge_broken,
    naming_killed_workers,
    write_broken,
)
from stadapter.device import Precision, autocast, default_num_workers, pick_device
from stadapter.evaluate import Scores
from stadapter.interrupt import interrupt_between_steps
from stadapter.model import VideoClassifier
from stadapter.progress import Bar, console, progress_bar
from stadapter.run import RunFolder
from stadapter.tasks import make_task

WAITING_HINT = 0.2
"""Share of the time that the model may wait for clips before the run says what helps."""


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    epochs: int = 20
    """Passes over the training clips."""
    lr: float = 1e-2
    """Peak learning rate for 256 clips per step; scaled to the batch size actually used."""
    batch_size: int = 16
    """Clips per step and process."""
    warmup_epochs: float = 2.0
    """Epochs over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """AdamW's, on weight matrices only."""
    clip_grad_norm: float | None = 1.0
    """Largest gradient norm; None does not clip."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, 0 to below 1; not for several labels per
    clip."""
    balance: Literal["none", "sampler", "loss"] = "none"
    """Against rare classes being overlooked: "sampler" draws clips so that classes come equally
    often, "loss" weights classes by how rare they are."""
    mixup: float = 0.0
    """Alpha of mixup: clips of a batch are blended, weights from Beta(alpha, alpha); 0 for none."""
    cutmix: float = 0.0
    """Alpha of CutMix: a rectangle of another clip, the same in all frames; 0 for none. With mixup
    as well, each step takes one of the two."""
    precision: Precision = "fp32"
    """Of the matrix products: fp32 or bf16."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    num_workers: int | None = None
    """Decoding processes; None takes the number of cores, 0 decodes in the main process."""
    seed: int = 0
    """Of initial weights, order, augmentation, dropout and a split that has to be made."""
    on_broken: OnBroken = "skip"
    """What is done about a clip that cannot be read: skip it, salvage what lies before the damage
    if that is at least half of it, or fail at the first one."""
    max_broken: float = 0.01
    """Fraction of clips that may be skipped before the run stops."""
    decode_timeout_seconds: float | None = None
    """A clip that takes longer to read is broken. Clips are then read in processes that can be
    killed; None waits for ever."""
    eval_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    keep: Literal["last", "best"] = "last"
    """Which epoch becomes the adapter file. "best" is chosen on the validation clips, so its score
    there is optimistic; it is kept in state/best/ either way."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra: tensorboard)."""

    def __post_init__(self) -> None:
        at_least_one = ("epochs", "batch_size", "eval_every")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1")
        for name in ("warmup_epochs", "weight_decay", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 0")
        if not self.lr > 0:
            raise ValueError(f"lr ({self.lr}) must be above 0")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise ValueError(f"clip_grad_norm ({self.clip_grad_norm}) must be above 0, or None")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing ({self.label_smoothing}) must be 0 to below 1")
        if self.balance not in ("none", "sampler", "loss"):
            raise ValueError(f"balance ({self.balance}) must be none, sampler or loss")
        if not 0 <= self.max_broken <= 1:
            raise ValueError(f"max_broken ({self.max_broken}) must be a fraction, 0 to 1")
        if self.decode_timeout_seconds is not None and not self.decode_timeout_seconds > 0:
            raise ValueError(
                f"decode_timeout_seconds ({self.decode_timeout_seconds}) must be above 0, or None"
            )
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 0")


@dataclass
class State:
    """Where a run stands between two steps."""

    epoch: int = 0
    """Epoch to go on with."""
    step_in_epoch: int = 0
    """Steps of that epoch already done."""
    best: float = -1.0
    """Best validation so far, of the task's headline number."""
    broken: dict[int, BrokenClip] = field(default_factory=dict)
    """Training clips that were skipped or salvaged, by number."""


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
            validate: scores the model on the validation clips.
        """
        self.task = make_task(model.adapter_set.info.space)
        self.task.check_smoothing(config.label_smoothing)
        device = pick_device(config.device)
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        self.model = model.to(self.accelerator.device)
        self.table = table
        self.config = config
        self.preprocessing = preprocessing
        self.folder = run
        self.validate = validate
        self.state = State()
        self.mirror = mirror(augment, self.task.space)
        labels = torch.as_tensor(table.labels)
        self.class_weights = None
        if config.balance == "loss":
            self.class_weights = self.task.class_weights(labels).to(self.accelerator.device)
        self.sampler = EpochSampler(
            len(table),
            shuffle=True,
            seed=config.seed,
            rank=self.accelerator.process_index,
            num_ranks=self.accelerator.num_processes,
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
            # Ranks must make the same number of steps.
            drop_last=self.accelerator.num_processes > 1,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.steps_per_epoch = len(self.loader)
        self.events = _summary_writer(run) if config.tensorboard else None
        self.limit = BrokenLimit(len(table), config.max_broken, config.on_broken)
        self.data_seconds = self.step_seconds = 0.0
        self.wrapped, self.optimizer = self.accelerator.prepare(
            self.model, torch.optim.AdamW(parameter_groups(model, config))
        )

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
        return round(self.data_seconds / self.step_seconds, 4) if self.step_seconds else None

    def run(self) -> Scores:
        """Train until the last epoch is done; returns the last validation.

        Ctrl-C saves the position first, so that `resume` goes on at this step.

        Raises:
            TooManyBrokenError: more unreadable clips than `config.max_broken`.
            WorkerKilledError: the system killed a process that reads clips.
            FloatingPointError: the loss is no longer a number.
        """
        scores = None
        total = self.config.epochs * self.steps_per_epoch
        with progress_bar("training", total, completed=self.step) as bar:
            while self.state.epoch < self.config.epochs:
                try:
                    with (
                        interrupt_between_steps() as check,
                        naming_killed_workers(self.dataset.whereabouts, self.table.paths),
                    ):
                        losses = self._train_epoch(bar, check)
                except KeyboardInterrupt:
                    if self.accelerator.is_main_process:
                        self.save_state()
                    raise
                finally:
                    if self.accelerator.is_main_process:
                        write_broken(self.folder.broken, "train", self.state.broken.values())
                self.limit.check(self.state.broken.values())
                scores = self._finish_epoch(losses)
        self._say_waiting()
        if self.config.keep == "best":
            return self._restore_best()
        return scores or self.validate(self.model)

    def _train_epoch(self, bar: Bar, check_interrupt: Callable[[], None]) -> list[float]:
        state, config = self.state, self.config
        self.model.train()
        self.sampler.epoch = state.epoch
        self.sampler.skip = state.step_in_epoch * config.batch_size
        losses = []
        before = time.perf_counter()
        for batch in self.loader:
            ready = time.perf_counter()
            if batch.broken:
                merge_broken(state.broken, batch.broken)
                self.limit.check(state.broken.values())
            line: dict[str, Any] = {"step": self.step, "epoch": state.epoch}
            if len(batch.clips):
                line |= self._train_step(batch.video, batch.labels, batch.clips)
                losses.append(line["loss"])
            state.step_in_epoch += 1
            now = time.perf_counter()
            clips = len(batch.clips) * self.accelerator.num_processes
            line["clips_per_second"] = round(clips / (now - before), 2)
            line["data_seconds"] = round(ready - before, 4)
            self.data_seconds += ready - before
            self.step_seconds += now - before
            self._log(line)
            before = now
            bar.advance()
            bar.describe(
                f"epoch {state.epoch + 1}/{config.epochs}  loss {line.get('loss', math.nan):.3f}  "
                f"{line['clips_per_second']:.1f} clips/s"
            )
            check_interrupt()
        for clips_of_rank in gather_object([list(state.broken.values())]):
            merge_broken(state.broken, clips_of_rank)
        return losses

    def _train_step(self, video: Tensor, labels: Tensor, clips: Tensor) -> dict[str, float]:
        """One step on uint8 (B, 1, T, C, H, W); what it logs."""
        config, device = self.config, self.accelerator.device
        scale = lr_schedule(self.step, self.steps_per_epoch, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale * self.accelerator.num_processes
        video, targets = self._prepare(video, labels, clips)
        with autocast(device, config.precision):
            logits = self.wrapped(video)
        loss = self.task.loss(
            logits.float(),
            targets,
            smoothing=config.label_smoothing,
            class_weights=self.class_weights,
        )
        value = loss.item()
        if not math.isfinite(value):
            names = ", ".join(self.table.paths[i] for i in clips.tolist())
            raise FloatingPointError(
                f"the loss is {value} at step {self.step}; the last good state is kept. "
                f"Try a lower --lr or --precision fp32. Clips of this step: {names}"
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        line = {"loss": round(value, 6), "lr": self.optimizer.param_groups[0]["lr"]}
        if config.clip_grad_norm is not None:
            parameters = [p for _, p in self.model.trained_parameters()]
            norm = self.accelerator.clip_grad_norm_(parameters, config.clip_grad_norm)
            line["grad_norm"] = round(float(norm), 6)
        self.optimizer.step()
        return line

    def _prepare(self, video: Tensor, labels: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """To the device, flipped, normalised and mixed: float (B, T, C, H, W), targets (B, K)."""
        config, device = self.config, self.accelerator.device
        video = video[:, 0].to(device, non_blocking=True)
        targets = self.task.targets(labels.to(device))
        if self.mirror is not None:
            chosen = flipped_clips(clips.tolist(), seed=config.seed, epoch=self.state.epoch)
            targets, flipped = self.mirror.flip(targets, chosen)
            video = torch.where(flipped[:, None, None, None, None], video.flip(-1), video)
        video = self.preprocessing.normalize(video)
        mixing = draw_mixing(
            len(video), mixup=config.mixup, cutmix=config.cutmix, seed=config.seed, step=self.step
        )
        return mixing.apply(video, targets) if mixing else (video, targets)

    def _finish_epoch(self, losses: list[float]) -> Scores | None:
        """Validate, keep what is best, write the adapters and the state."""
        state, config = self.state, self.config
        state.epoch += 1
        state.step_in_epoch = 0
        line: dict[str, Any] = {"step": self.step, "epoch": state.epoch}
        line["train_loss"] = sum(losses) / len(losses) if losses else None
        scores = value = None
        if state.epoch % config.eval_every == 0 or state.epoch == config.epochs:
            scores = self.validate(self.model)
            value = line[self.headline] = scores.headline
            self._note_scores(value, len(scores.labels))
        if self.accelerator.is_main_process:
            self.model.save_pretrained(self.folder.path)
            # Undefined counts as 0, so that there is a best epoch in any case.
            if scores is not None and (value or 0.0) > state.best:
                state.best = value or 0.0
                self.model.save_pretrained(self.folder.state / "best")
            self._log(line)
            self.save_state()
        return scores

    def _say_waiting(self) -> None:
        share = self.waited_for_data
        if share is None or not self.accelerator.is_main_process:
            return
        text = f"the model waited for clips {share:.0%} of the time"
        if share > WAITING_HINT:
            text += (
                f": use more --num_workers (now {self.loader.num_workers}) if there are cores "
                "left, or make the files faster to read with stadapter prepare"
            )
        console.print(text)

    def _note_scores(self, value: float | None, num_clips: int) -> None:
        adapter_set = self.model.adapter_set
        noted = {
            self.headline: value,
            "num_clips": num_clips,
            "epoch": self.state.epoch,
        }
        adapter_set.info = replace(adapter_set.info, scores=noted)

    def _restore_best(self) -> Scores:
        best = self.folder.state / "best"
        config = load_adapter_config(best)
        tensors = load_tensors(best, config)
        with torch.no_grad():
            for name, parameter in self.model.trained_parameters():
                parameter.copy_(tensors[name])
        self.model.adapter_set.info = config.info
        self.model.save_pretrained(self.folder.path)
        return self.validate(self.model)

    def _log(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.folder.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.events is not None:
            for name, value in line.items():
                if name not in ("step", "epoch") and value is not None:
                    self.events.add_scalar(name, value, line["step"])
            self.events.flush()

    def save_state(self) -> None:
        """Write everything that resuming needs, atomically."""
        self.folder.state.mkdir(exist_ok=True)
        content = {
            "epoch": self.state.epoch,
            "step_in_epoch": self.state.step_in_epoch,
            "best": self.state.best,
            "broken": [astuple(clip) for clip in self.state.broken.values()],
            "trained": {name: p.detach() for name, p in self.model.trained_parameters()},
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        with atomic_path(self.folder.last_state) as temporary:
            torch.save(content, temporary)

    def resume(self) -> None:
        """Go on where the folder's state says; from the beginning if there is none yet."""
        path = self.folder.last_state
        if not path.is_file():
            console.print(f"{self.folder.path} has no finished epoch yet; starting anew")
            self.folder.log.unlink(missing_ok=True)
            return
        content = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in self.model.trained_parameters():
                parameter.copy_(content["trained"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"])
        broken = [BrokenClip(*entry) for entry in content["broken"]]
        self.state = State(
            epoch=content["epoch"],
            step_in_epoch=content["step_in_epoch"],
            best=content["best"],
            broken={clip.clip: clip for clip in broken},
        )
        _cut_log(self.folder.log, self.step)
        if self.state.epoch >= self.config.epochs:
            console.print(f"{self.folder.path} has finished all {self.config.epochs} epochs")
            return
        console.print(
            f"resuming at epoch {self.state.epoch + 1} of {self.config.epochs}, step {self.step}"
        )


def mirror(augment: AugmentConfig, space: LabelSpace) -> Mirror | None:
    """How training clips are flipped; None if they are not."""
    return None if augment.flip == "off" else Mirror(space, swaps=augment.flip == "auto")


def parameter_groups(model: VideoClassifier, config: TrainConfig) -> list[dict[str, Any]]:
    """Optimiser groups: decay only for matrices, the method's own rate for backbone weights."""
    peak = config.lr * config.batch_size / 256
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.trained_parameters():
        key = (name.startswith("backbone."), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "peak_lr": peak * (model.adapter_set.backbone_lr_scale if in_backbone else 1.0),
        }
        for (in_backbone, decays), parameters in groups.items()
    ]


def lr_schedule(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Factor on the peak rate at `step`: linear from 0, then a half cosine to 0."""
    warmup = min(config.warmup_epochs, config.epochs / 2) * steps_per_epoch
    total = config.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _summary_writer(run: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ImportError("TensorBoard is missing; pip install stadapter[tensorboard]") from error
    return SummaryWriter(str(run.path / "events"))


def _cut_log(path: Path, step: int) -> None:
    """Drop what a killed run logged after the state it goes on from."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the kill fell into the middle of a line
            break
        if line["step"] < step or ("train_loss" in line and line["step"] <= step):
            kept.append(text)
    write_text(path, "".join(text + "\n" for text in kept))
