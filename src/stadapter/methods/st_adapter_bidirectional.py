"""ST-Adapter with a pair of filters: one looks back, one looks ahead, and their mix is learned.

    y = x + up(f(m * past(h) + (1 - m) * future(h))),  h = down(x)

`past` and `future` are causal depthwise convolutions, the second along reversed time, and m is a
sigmoid per channel: a filter with separate scales for the two directions, each as long as a
symmetric one twice its size. After the directional adapter (DiA), known here by its public
README only: kernels of 5 frames, ends replicated, a learned mix, GELU, and a zero up-projection.

Trains, with d token width, A adapter width and a kernel of k frames: (dA + A) + 2 (kA + A) + A +
(Ad + d) per adapter.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stadapter.methods.bottleneck import ACTIVATIONS, Activation, FilteredBottleneck, StreamConfig
from stadapter.ops import dwconv3d


@dataclass(frozen=True)
class BidirectionalSTAdapterConfig(StreamConfig):
    """Settings of the pair of causal filters."""

    name: ClassVar[str] = "st_adapter_bidirectional"

    activation: Activation | None = "gelu"
    """Non-linearity after the filters; None for none."""
    kernel_frames: int = 5
    """k, frames that each filter sees: the current one and k - 1 on its side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_frames < 2:
            raise ValueError(f"kernel_frames ({self.kernel_frames}) must be at least 2")

    @property
    def sees_order(self) -> bool:
        """By its filters."""
        return True

    def make_adapter(self, token_width: int, width: int) -> nn.Module:
        """A `BidirectionalSTAdapter`."""
        return BidirectionalSTAdapter(token_width, width, self)


class BidirectionalSTAdapter(FilteredBottleneck):
    """One adapter; the identity as long as its up-projection is zero, as it is at first."""

    def __init__(self, token_width: int, width: int, config: BidirectionalSTAdapterConfig) -> None:
        super().__init__()
        kernel = (config.kernel_frames, 1, 1)
        self.activation = ACTIVATIONS[config.activation] if config.activation else None
        self.down = nn.Linear(token_width, width)
        self.past = nn.Conv3d(width, width, kernel, groups=width)
        self.future = nn.Conv3d(width, width, kernel, groups=width)
        self.mix = nn.Parameter(torch.zeros(width))
        self.up = nn.Linear(width, token_width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def filter(self, h: Tensor) -> Tensor:
        """(B, T, H, W, A) -> the same, from both sides."""
        future = _look_back(h.flip(1), self.future).flip(1)
        mix = self.mix.sigmoid()
        return mix * _look_back(h, self.past) + (1 - mix) * future


def _look_back(x: Tensor, conv: nn.Conv3d) -> Tensor:
    assert conv.bias is not None
    return dwconv3d(x, conv.weight, conv.bias, causal=True, padding="replicate")
