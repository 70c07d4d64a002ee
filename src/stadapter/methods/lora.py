"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): a low-rank update beside frozen linear layers.

    y = W x + b + (alpha / r) * B A x,   A: (r, d_in), B: (d_out, r), B = 0 at first

on the layers that make queries and values, as in the paper (§4.2): 2 L r * 2d parameters with L
blocks of token width d. Where queries, keys and values are one layer (d, 3d), the update is of that
layer, and the count the same: L r * 4d, 294,912 on ViT-B/16 with r = 8.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from stadapter.backbones import Backbone
from stadapter.backbones.frozen import Storage
from stadapter.methods.heads import LinearHead
from stadapter.methods.linears import QUERY_VALUE, bare, choose_linears
from stadapter.methods.method import AdapterSet, MethodConfig


@dataclass(frozen=True)
class LoRAConfig(MethodConfig):
    """Settings of LoRA."""

    name: ClassVar[str] = "lora"
    # Int8 layers are no longer those that it changes.
    storages: ClassVar[tuple[Storage, ...]] = ("fp32", "bf16")

    rank: int = 8
    """r, rank of each update."""
    alpha: float = 8.0
    """The update is scaled by alpha / r."""
    lora_dropout: float = 0.0
    """Dropout of the update's input, 0 to below 1."""
    targets: tuple[str, ...] | None = None
    """Ends of the names of the linear layers that are updated, such as "qkv" or "mlp.fc1"; None
    takes those of queries and values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))
            if not self.targets:
                raise ValueError("targets is empty; name linear layers, or None for the usual ones")
        if self.rank < 1:
            raise ValueError(f"rank ({self.rank}) must be at least 1")
        if self.alpha <= 0:
            raise ValueError(f"alpha ({self.alpha}) must be above 0")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout ({self.lora_dropout}) must be at least 0 and below 1")

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """One update for each chosen layer, and a linear head.

        Raises:
            ValueError: targets that no layer of a block answers to.
        """
        chosen = choose_linears(backbone, self.targets, QUERY_VALUE)
        head = LinearHead(backbone.width, num_classes, dropout=self.dropout)
        linears = {name: LoRALinear(linear, self) for name, linear in chosen.items()}
        return AdapterSet(self, head, linears=linears)


class LoRALinear(nn.Module):
    """Stands in for a frozen linear layer, whose weights it reads and does not own."""

    frozen: nn.Linear

    def __init__(self, linear: nn.Linear, config: LoRAConfig) -> None:
        super().__init__()
        self.__dict__["frozen"] = bare(linear)  # not a submodule: it belongs to the backbone
        self.scale = config.alpha / config.rank
        self.dropout = nn.Dropout(config.lora_dropout)
        self.down = nn.Linear(linear.in_features, config.rank, bias=False)
        self.up = nn.Linear(config.rank, linear.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        y: Tensor = self.frozen(x) + self.scale * self.up(self.down(self.dropout(x)))
        return y
