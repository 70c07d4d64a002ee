"""The settings of the training loop."""

from dataclasses import dataclass
from typing import Literal, get_args

from stadapter.data import OnBroken
from stadapter.device import Precision

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    epochs: int = 20
    """Passes over the training clips."""
    lr: float = 1e-2
    """Peak learning rate for 256 clips per step; scaled to the batch size actually used."""
    batch_size: int = 16
    """Clips that a process computes at once."""
    accumulation_steps: int = 1
    """Batches whose gradients are added up before the weights change: a step of each process has
    batch_size x accumulation_steps clips."""
    warmup_epochs: float = 2.0
    """Epochs over which the learning rate rises from 0."""
    weight_decay: float = 0.01
    """AdamW's, on weight matrices only."""
    clip_grad_norm: float | None = 1.0
    """Largest gradient norm; None does not clip."""
    ema_decay: float | None = None
    """Validate and keep a moving average of the trained weights: the share of the old average that
    stays at each step, such as 0.999; None keeps the weights themselves."""
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
    """Of the matrix products: fp32, bf16 or fp16 (with a scaled loss)."""
    checkpoint_every: int = 0
    """Gradient checkpointing: every so manieth block is computed again in the backward pass instead
    of being remembered (1: all blocks); 0 remembers all."""
    compile: bool = False
    """Compile the model with torch.compile."""
    shard: bool = False
    """Over several processes, split the weights between them (FSDP2), for backbones that do not
    fit one device; otherwise each process has all of them (DDP)."""
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
    save_every_minutes: float = 10.0
    """Minutes between two states inside an epoch, from which a killed run can resume."""
    trackers: tuple[TrackerName, ...] = ()
    """Where the log goes besides log.jsonl: tensorboard, wandb, mlflow (extras of these names)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "trackers", tuple(self.trackers))
        at_least_one = ("epochs", "batch_size", "accumulation_steps", "eval_every")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1")
        at_least_zero = ("warmup_epochs", "weight_decay", "mixup", "cutmix", "checkpoint_every")
        for name in (*at_least_zero, "save_every_minutes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 0")
        if not self.lr > 0:
            raise ValueError(f"lr ({self.lr}) must be above 0")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise ValueError(f"clip_grad_norm ({self.clip_grad_norm}) must be above 0, or None")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay ({self.ema_decay}) must be between 0 and 1, or None")
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision ({self.precision}) must be {' or '.join(get_args(Precision))}"
            )
        unknown = sorted(set(self.trackers) - set(get_args(TrackerName)))
        if unknown:
            raise ValueError(
                f"trackers ({', '.join(unknown)}) must be of {', '.join(get_args(TrackerName))}"
            )
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
