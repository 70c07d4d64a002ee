"""What the optimiser changes, how fast, and an average of it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stadapter.model import VideoClassifier
from stadapter.train.config import TrainConfig


def parameter_groups(model: VideoClassifier, config: TrainConfig) -> list[dict[str, Any]]:
    """Optimiser groups: decay only for matrices, the method's own rate for backbone weights."""
    peak = config.lr * config.batch_size * config.accumulation_steps / 256
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


class Average:
    """Exponential moving average of trained weights (Polyak & Juditsky, SIAM J. Control Optim.
    1992, with a fixed decay): average = decay * average + (1 - decay) * weight, after each step."""

    def __init__(self, model: VideoClassifier, decay: float) -> None:
        self.decay = decay
        self.model = model
        self.tensors = {name: p.detach().clone() for name, p in model.trained_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        for name, parameter in self.model.trained_parameters():
            self.tensors[name].lerp_(parameter, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model computes with the average inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.model.trained_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
