"""Linear probe: the frozen backbone's pooled features and a linear layer; the lower yardstick."""

from dataclasses import dataclass
from typing import ClassVar

from stadapter.backbones import Backbone
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, MethodConfig


@dataclass(frozen=True)
class LinearProbeConfig(MethodConfig):
    """Settings of the linear probe."""

    name: ClassVar[str] = "linear_probe"

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """Only the head."""
        return AdapterSet(self, LinearHead(backbone.width, num_classes, dropout=self.dropout))
