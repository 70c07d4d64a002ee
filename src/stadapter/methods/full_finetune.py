"""Full fine-tuning: every weight of the backbone and a linear head; the usual yardstick."""

from dataclasses import dataclass
from typing import ClassVar

from stadapter.backbones import Backbone
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, MethodConfig


@dataclass(frozen=True)
class FullFinetuneConfig(MethodConfig):
    """Settings of full fine-tuning."""

    name: ClassVar[str] = "full_finetune"
    trains_backbone: ClassVar[bool] = True

    backbone_lr_scale: float = 0.1
    """Factor on the learning rate for pretrained weights; the fresh head takes the full rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_lr_scale <= 0:
            raise ValueError(f"backbone_lr_scale ({self.backbone_lr_scale}) must be above 0")

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """The head, and all parameters of the backbone declared as trained."""
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            backbone_parameters=[name for name, _ in backbone.named_parameters()],
            backbone_lr_scale=self.backbone_lr_scale,
        )
