"""Full fine-tuning: every weight of the backbone and a linear head; the usual yardstick."""

from dataclasses import dataclass
from typing import ClassVar

from stadapter.backbones import Backbone
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, BackboneConfig


@dataclass(frozen=True)
class FullFinetuneConfig(BackboneConfig):
    """Settings of full fine-tuning."""

    name: ClassVar[str] = "full_finetune"

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """The head, and all parameters of the backbone declared as trained."""
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            backbone_parameters=[name for name, _ in backbone.named_parameters()],
            backbone_lr_scale=self.backbone_lr_scale,
        )
