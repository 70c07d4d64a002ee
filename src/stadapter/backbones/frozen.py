"""Frozen weights stored smaller than they are computed with: bfloat16 or int8.

Only linear layers change, which hold nearly all weights of a transformer; their products are those
of `ops.frozen_linear`. "bf16" also stores the rest (norms, embeddings) in bfloat16, so that the
residual stream is bfloat16 as in the published code.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from stadapter.backbones.base import Backbone
from stadapter.ops import cast_dtype, frozen_linear, product_dtype

Storage = Literal["fp32", "bf16", "int8"]
"""How frozen weights are stored."""


class FrozenLinear(nn.Linear):
    """A linear layer whose weights are never trained, and may be of another type than its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return frozen_linear(x, self.weight, self.bias)


class FrozenConv2d(nn.Conv2d):
    """The patch embedding, in whatever type the device multiplies fast."""

    def forward(self, x: Tensor) -> Tensor:
        """(B*T, C, H, W) -> (B*T, D, H', W')."""
        kept = cast_dtype(x)
        computed = product_dtype(x.device, kept)
        if torch.compiler.is_compiling() or computed == kept:
            plain: Tensor = super().forward(x)
            return plain
        bias = None if self.bias is None else self.bias.to(computed)
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = self._conv_forward(x.to(computed), self.weight.to(computed), bias)
        return y.to(kept)


class Int8Linear(nn.Module):
    """A linear layer with a weight of whole numbers, -127 to 127, and a scale for each output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        largest = linear.weight.detach().abs().amax(1, keepdim=True)
        scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("scale", scale)  # (O, 1)
        self.register_buffer("values", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    scale: Tensor
    values: Tensor

    @property
    def weight(self) -> Tensor:
        """(O, I), unpacked; some libraries read it."""
        return self.values * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return frozen_linear(x, self.values, self.bias, self.scale)


def store_frozen(backbone: Backbone, storage: Storage) -> None:
    """Store the weights of a frozen backbone in another type, in place. It cannot be undone.

    "bf16" halves them and is meant for `autocast` in bf16 (precision "bf16"); "int8" leaves a
    quarter of the linear layers and keeps everything else as it is.

    Raises:
        ValueError: unknown storage, or a weight that is being trained.
    """
    if storage not in ("fp32", "bf16", "int8"):
        raise ValueError(f"storage ({storage}) must be fp32, bf16 or int8")
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    if storage != "fp32" and trained:
        raise ValueError(
            f"storage {storage!r} is for frozen weights, but {trained[0]} is trained; use fp32"
        )
    if storage == "fp32":
        return
    if storage == "bf16":
        backbone.to(torch.bfloat16)
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            # Subclasses may be more than a product (torch's attention reads its own by name).
            if type(child) is nn.Linear:
                if storage == "int8":
                    setattr(parent, name, Int8Linear(child))
                else:
                    child.__class__ = FrozenLinear  # the same tensors, another forward
            elif type(child) is nn.Conv2d and storage == "bf16":
                child.__class__ = FrozenConv2d
