"""One step: from batches of clips to changed weights.

Over several ranks a step has the clips that one process with as many times the batch would have,
and its loss is the mean over all of them, however many of each rank's could be read.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stadapter.data import (
    Batch,
    ClipTable,
    Mirror,
    Preprocessing,
    draw_mixing,
    flipped_clips,
)
from stadapter.device import autocast
from stadapter.model import VideoClassifier
from stadapter.ranks import Ranks
from stadapter.tasks import make_task
from stadapter.train.config import TrainConfig
from stadapter.train.optimizer import Average, parameter_groups
from stadapter.train.parallel import ParallelModel, like, whole, whole_tree


class Updater:
    """A model on its device, its optimiser, and what else changes with each step."""

    def __init__(
        self,
        model: VideoClassifier,
        table: ClipTable,
        *,
        config: TrainConfig,
        blank: tuple[int, ...],
        preprocessing: Preprocessing,
        mirror: Mirror | None,
        ranks: Ranks,
    ) -> None:
        """Put the model on the device of this rank.

        Args:
            model: trained in place.
            table: training clips, for their labels and names.
            config: settings of the loop.
            blank: shape (1, T, C, H, W) of what a rank without clips runs.
            preprocessing: pixel statistics.
            mirror: how clips are flipped; None if they are not.
            ranks: the processes that train together.
        """
        self.task = make_task(model.adapter_set.info.space)
        self.model = model
        self.model.checkpoint_every = config.checkpoint_every
        self.table = table
        self.config = config
        self.blank = blank
        self.preprocessing = preprocessing
        self.mirror = mirror
        self.ranks = ranks
        self.parallel = ParallelModel(model, ranks, shard=config.shard, compiled=config.compile)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config))
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
        self.average = None if config.ema_decay is None else Average(model, config.ema_decay)
        self.class_weights = None
        if config.balance == "loss":
            labels = torch.as_tensor(table.labels)
            self.class_weights = self.task.class_weights(labels).to(ranks.device)

    def update(
        self, batches: list[Batch], num_clips: int, *, step: int, epoch: int, lr_factor: float
    ) -> dict[str, float]:
        """Change the weights once.

        Args:
            batches: this rank's, as many as every other's; some may be empty.
            num_clips: in them, over all ranks; at least 1.
            step: number of the step in the run.
            epoch: it belongs to.
            lr_factor: on the peak learning rate.

        Returns:
            What to log: loss, lr, grad_norm, with fp16 loss_scale.

        Raises:
            FloatingPointError: the loss or its gradient is no number; the weights are unchanged.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor * self.ranks.num_ranks
        self.optimizer.zero_grad()
        own = 0.0
        for number, batch in enumerate(batches, start=1):
            if not len(batch.clips) and self.ranks.num_ranks == 1:
                continue
            with self.parallel.gradients(exchanged=number == len(batches)):
                loss = self._loss(batch, number, step, epoch) * (
                    len(batch.clips) * self.ranks.num_ranks / num_clips
                )
                own += loss.item()
                torch.autograd.backward(self.scaler.scale(loss))
        [value] = self.ranks.sum(own / self.ranks.num_ranks)
        self._check_finite("loss", value, batches, step)
        self.scaler.unscale_(self.optimizer)
        norm = whole(
            torch.nn.utils.clip_grad_norm_(
                [p for _, p in self.model.trained_parameters()], config.clip_grad_norm or math.inf
            )
        ).item()
        if not self.scaler.is_enabled():  # a scaled loss overflows now and then; skipped below
            self._check_finite("gradient", norm, batches, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        line = {"loss": round(value, 6), "lr": self.optimizer.param_groups[0]["lr"]}
        if math.isfinite(norm):
            line["grad_norm"] = round(norm, 6)
        if self.scaler.is_enabled():
            line["loss_scale"] = self.scaler.get_scale()
        return line

    def kept_tensors(self) -> dict[str, Tensor]:
        """What becomes the adapter file: the trained weights, or their average, whole; every rank
        must call it."""
        kept = self.average.tensors if self.average else dict(self.model.trained_parameters())
        return {name: whole(tensor.detach()) for name, tensor in kept.items()}

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the trained parameters these values, which are whole."""
        with torch.no_grad():
            for name, parameter in self.model.trained_parameters():
                parameter.copy_(like(tensors[name], parameter))

    def state_dict(self) -> dict[str, Any]:
        """All that a step changes but random numbers, whole; every rank must call it."""
        trained = {name: p.detach() for name, p in self.model.trained_parameters()}
        return {
            "trained": whole_tree(trained),
            "optimizer": whole_tree(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "average": whole_tree(self.average.tensors) if self.average else {},
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.set_weights(content["trained"])
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        kept = content["optimizer"]
        for number, values in kept["state"].items():
            kept["state"][number] = {k: like(v, parameters[number]) for k, v in values.items()}
        self.optimizer.load_state_dict(kept)
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            for name, parameter in self.model.trained_parameters():
                self.average.tensors[name].copy_(like(content["average"][name], parameter))

    def _loss(self, batch: Batch, number: int, step: int, epoch: int) -> Tensor:
        """Mean loss of one batch, the `number`th of its step; 0 if it has no clips."""
        device, config = self.ranks.device, self.config
        if not len(batch.clips):
            logits: Tensor = self.parallel.forward(torch.zeros(self.blank, device=device))
            return logits.float().sum() * 0
        video, targets = self.prepare(batch, number, step, epoch)
        with autocast(device, config.precision):
            logits = self.parallel.forward(video)
        return self.task.loss(
            logits.float(),
            targets,
            smoothing=config.label_smoothing,
            class_weights=self.class_weights,
        )

    def prepare(self, batch: Batch, number: int, step: int, epoch: int) -> tuple[Tensor, Tensor]:
        """The `number`th batch of a step, on the device, flipped, normalised and mixed: float
        (B, T, C, H, W) and targets (B, K)."""
        config, device = self.config, self.ranks.device
        video = batch.video[:, 0].to(device, non_blocking=True)
        targets = self.task.targets(batch.labels.to(device))
        if self.mirror is not None:
            chosen = flipped_clips(batch.clips.tolist(), seed=config.seed, epoch=epoch)
            targets, flipped = self.mirror.flip(targets, chosen)
            video = torch.where(flipped[:, None, None, None, None], video.flip(-1), video)
        video = self.preprocessing.normalize(video)
        batches_before = step * config.accumulation_steps + number - 1
        mixing = draw_mixing(
            len(video),
            mixup=config.mixup,
            cutmix=config.cutmix,
            seed=config.seed,
            step=batches_before * self.ranks.num_ranks + self.ranks.rank,
        )
        return mixing.apply(video, targets) if mixing else (video, targets)

    def _check_finite(self, what: str, value: float, batches: list[Batch], step: int) -> None:
        if math.isfinite(value):
            return
        clips = self.ranks.gather([i for batch in batches for i in batch.clips.tolist()])
        names = ", ".join(self.table.paths[i] for of_rank in clips for i in of_rank)
        raise FloatingPointError(
            f"the {what} is {value} at step {step}; the last good state is kept. "
            f"Try a lower --lr or --precision fp32. Clips of this step: {names}"
        )
