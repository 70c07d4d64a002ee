"""BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): the bias terms alone, and a linear head.

Trains every bias vector of the backbone. On a plain ViT with L blocks of token width d these are
L * 11 d in the blocks (qkv 3d, projection d, MLP 4d + d, two norms 2d) and 2 d around them (patch
embedding or CLIP's first norm, and the final norm): 102,912 on ViT-B/16.
"""

from dataclasses import dataclass
from typing import ClassVar

from stadapter.backbones import Backbone
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, BackboneConfig


@dataclass(frozen=True)
class BitFitConfig(BackboneConfig):
    """Settings of BitFit."""

    name: ClassVar[str] = "bitfit"

    backbone_lr_scale: float = 1.0
    """Factor on the learning rate for the biases; they need a larger one than whole weights do."""

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """The head, and the bias vectors of the backbone declared as trained.

        Raises:
            ValueError: a backbone without any.
        """
        biases = [
            name
            for name, parameter in backbone.named_parameters()
            if name.endswith("bias") and parameter.ndim == 1
        ]
        if not biases:
            raise ValueError(f"backbone {backbone.id!r} has no bias terms for 'bitfit' to train")
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            backbone_parameters=biases,
            backbone_lr_scale=self.backbone_lr_scale,
        )
