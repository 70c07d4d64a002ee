"""Training: one visible loop, its settings, and what it leaves to resume from."""

from stadapter.train.config import TrackerName, TrainConfig
from stadapter.train.log import check_trackers
from stadapter.train.loop import Trainer, mirror
from stadapter.train.optimizer import lr_schedule, parameter_groups
from stadapter.train.parallel import check_shard
from stadapter.train.update import Updater

__all__ = [
    "TrackerName",
    "TrainConfig",
    "Trainer",
    "Updater",
    "check_shard",
    "check_trackers",
    "lr_schedule",
    "mirror",
    "parameter_groups",
]
