"""Partial fine-tuning: the last blocks, what follows them, and a linear head.

The usual middle between probing and full fine-tuning (Yosinski et al., NeurIPS 2014, arXiv
1411.1792, tune the upper layers of a network the same way). Trains all weights of the last k
blocks, of the final norm (and attention pooling, where a backbone has it), and the head:
k * (12 d^2 + 13 d) + 2d on a plain ViT of token width d.
"""

from dataclasses import dataclass
from typing import ClassVar

from stadapter.backbones import Backbone
from stadapter.methods.anatomy import block_parameters, pool_parameters
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import AdapterSet, BackboneConfig, last_blocks


@dataclass(frozen=True)
class PartialFinetuneConfig(BackboneConfig):
    """Settings of partial fine-tuning."""

    name: ClassVar[str] = "partial_finetune"

    last_blocks: int = 2
    """k, how many blocks train; the earlier ones stay frozen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_blocks < 1:
            raise ValueError(f"last_blocks ({self.last_blocks}) must be at least 1")

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """The head, and the parameters of the last blocks declared as trained.

        Raises:
            ValueError: `last_blocks` exceeds the backbone's depth.
        """
        blocks = last_blocks(backbone, self.last_blocks)
        return AdapterSet(
            self,
            LinearHead(backbone.width, num_classes, dropout=self.dropout),
            backbone_parameters=block_parameters(backbone, blocks) | pool_parameters(backbone),
            backbone_lr_scale=self.backbone_lr_scale,
        )
