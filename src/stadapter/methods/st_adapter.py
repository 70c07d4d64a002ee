"""ST-Adapter (Pan et al., NeurIPS 2022, arXiv 2206.13559).

    y = x + up(f(dwconv3d(down(x))))

on patch tokens, before attention and/or before the MLP of a block; prefix tokens pass untouched.
The authors' released code uses no activation f, zero-initialises the convolution and both biases
around it, and pads the clip with zero frames on both sides; these are the defaults. Where a
backbone reads out its class token alone, the adapter before the last block's MLP cannot act, as in
the published model: patches no longer reach that token. `causal=True` looks back only.

Trains, with d token width, A adapter width and k = kT*kH*kW: (dA + A) + (kA + A) + (Ad + d) per
adapter. The published 24x384 model on ViT-B/16 has 24 of them, 14,220,288 parameters.
"""

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from torch import Tensor, nn

from stadapter.backbones import TokenShape
from stadapter.methods.bottleneck import ACTIVATIONS, StreamConfig
from stadapter.methods.method import LATER
from stadapter.ops import AdapterWeights, Placement, TimePadding, st_adapter


@dataclass(frozen=True)
class STAdapterConfig(StreamConfig):
    """Settings of ST-Adapter; the defaults are the published 24x384 model."""

    name: ClassVar[str] = "st_adapter"

    kernel_size: tuple[int, int, int] = (3, 1, 1)
    """Kernel of the depthwise convolution over frames, height, width; odd numbers."""
    causal: bool = False
    """Look at the current and earlier frames only."""
    padding: TimePadding = field(default="zero", metadata=LATER)
    """What stands before the first and after the last frame: "zero", or "replicate" that frame."""
    dilation: int = field(default=1, metadata=LATER)
    """Frames from one tap of the filter to the next; 2 looks twice as far with the same weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # JSON and YAML give lists; the dataclass stays hashable and comparable.
        object.__setattr__(self, "kernel_size", tuple(self.kernel_size))
        if len(self.kernel_size) != 3 or any(k < 1 or k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                f"kernel_size {self.kernel_size} must be three odd numbers (frames, height, width)"
            )
        if self.padding not in get_args(TimePadding):
            raise ValueError(f"padding {self.padding!r} must be one of {get_args(TimePadding)}")
        if self.dilation < 1:
            raise ValueError(f"dilation ({self.dilation}) must be at least 1 frame")

    @property
    def sees_order(self) -> bool:
        """Unless the kernel is one frame long."""
        return self.kernel_size[0] > 1

    def make_adapter(self, token_width: int, width: int) -> nn.Module:
        """A `STAdapter`."""
        return STAdapter(token_width, width, self)


class STAdapter(nn.Module):
    """One adapter; the identity as long as its convolution is zero, as it is at first."""

    def __init__(self, token_width: int, width: int, config: STAdapterConfig) -> None:
        super().__init__()
        self.causal, self.padding, self.dilation = config.causal, config.padding, config.dilation
        self.activation = ACTIVATIONS[config.activation] if config.activation else None
        self.down = nn.Linear(token_width, width)
        self.conv = nn.Conv3d(width, width, config.kernel_size, groups=width)
        self.up = nn.Linear(width, token_width)
        for zero in (self.conv.weight, self.conv.bias, self.down.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """(B*T, P+N, D) -> (B*T, P+N, D), a new tensor."""
        conv_bias = self.conv.bias
        assert conv_bias is not None
        weights = AdapterWeights(
            self.down.weight,
            self.down.bias,
            self.conv.weight,
            conv_bias,
            self.up.weight,
            self.up.bias,
        )
        placement = Placement(*shape, self.causal, self.padding, self.dilation)
        return st_adapter(tokens, weights, placement, activation=self.activation)
