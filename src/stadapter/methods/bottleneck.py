"""What adapters have in common: where they sit, how wide they are, and the plain bottleneck."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter.backbones import Backbone, TokenShape
from stadapter.methods.heads import LinearHead
from stadapter.methods.method import SITES, AdapterSet, MethodConfig, Site, last_blocks

Activation = Literal["gelu", "quick_gelu", "relu", "silu"]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig(MethodConfig):
    """Settings of methods that put a bottleneck into each block."""

    width: int | float = 384
    """A, channels of the bottleneck; a fraction (0.5) is taken of each block's token width."""
    last_blocks: int | None = None
    """Adapt only the last so many blocks; None adapts all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.width, float) and not 0 < self.width <= 1:
            raise ValueError(f"width ({self.width}) as a fraction must be above 0 and at most 1")
        if isinstance(self.width, int) and self.width < 1:
            raise ValueError(f"width ({self.width}) must be at least 1 channel")
        if self.last_blocks is not None and self.last_blocks < 1:
            raise ValueError(
                f"last_blocks ({self.last_blocks}) must be at least 1, or None for all"
            )

    def adapter_width(self, token_width: int) -> int:
        """A in a block whose tokens are `token_width` wide."""
        if isinstance(self.width, float):
            return max(1, round(self.width * token_width))
        return self.width

    def block_widths(self, backbone: Backbone) -> dict[int, tuple[int, int]]:
        """Index of each adapted block -> (D, A) there.

        Raises:
            ValueError: `last_blocks` exceeds the backbone's depth.
        """
        widths = {i: backbone.blocks[i].width for i in last_blocks(backbone, self.last_blocks)}
        return {i: (width, self.adapter_width(width)) for i, width in widths.items()}


@dataclass(frozen=True, kw_only=True)
class StreamConfig(BottleneckConfig):
    """Settings of adapters on the residual stream."""

    sites: tuple[Site, ...] = SITES
    """Where adapters sit in a block: before "attention", before "mlp", or both."""
    activation: Activation | None = None
    """Non-linearity inside the bottleneck; None for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # JSON and YAML give lists; the dataclass stays hashable and comparable.
        object.__setattr__(self, "sites", tuple(self.sites))
        unknown = [site for site in self.sites if site not in SITES]
        if not self.sites or unknown or len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites {self.sites} must be one or both of {SITES}")
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {self.activation!r} must be one of {', '.join(ACTIVATIONS)} or None"
            )

    @abstractmethod
    def make_adapter(self, token_width: int, width: int) -> nn.Module:
        """One adapter between tokens of D and a bottleneck of A channels."""

    def build(self, backbone: Backbone, num_classes: int) -> AdapterSet:
        """One adapter per site in each of the last blocks, and the published head.

        Raises:
            ValueError: `last_blocks` exceeds the backbone's depth.
        """
        widths = self.block_widths(backbone)
        adapters = {(site, i): self.make_adapter(*widths[i]) for i in widths for site in self.sites}
        head = LinearHead(backbone.width, num_classes, dropout=self.dropout)
        return AdapterSet(self, head, adapters=adapters)


class FilteredBottleneck(nn.Module, ABC):
    """`x + up(f(filter(down(x))))` on patch tokens; prefix tokens pass untouched."""

    down: nn.Linear
    up: nn.Linear
    activation: Callable[[Tensor], Tensor] | None

    @abstractmethod
    def filter(self, h: Tensor) -> Tensor:
        """(B, T, H, W, A) -> the same."""

    def forward(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """(B*T, P+N, D) -> (B*T, P+N, D), a new tensor."""
        T, H, W, P = shape
        prefix, patches = tokens[:, :P], tokens[:, P:]
        h = self.down(patches)  # (B*T, N, A)
        h = self.filter(h.reshape(-1, T, H, W, h.shape[-1]))
        if self.activation is not None:
            h = self.activation(h)
        patches = patches + self.up(h.reshape(-1, H * W, h.shape[-1]))
        return torch.cat([prefix, patches], dim=1)


class Bottleneck(nn.Module):
    """`up(f(down(x)))`, zero at first: 2dA + A + d parameters for width d and bottleneck A."""

    def __init__(self, token_width: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.down = nn.Linear(token_width, width)
        self.up = nn.Linear(width, token_width)
        for zero in (self.up.weight, self.down.bias, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        y: Tensor = self.up(self.activation(self.down(x)))
        return y


class SerialAdapter(nn.Module):
    """A bottleneck on the output of a residual branch."""

    def __init__(self, token_width: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(token_width, width, activation)

    def forward(self, branch: Tensor, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Branch (B*T, P+N, D) -> branch."""
        changed: Tensor = branch + self.bottleneck(branch)
        return changed


class ParallelAdapter(nn.Module):
    """A bottleneck beside a residual branch, on the tokens that go into it.

    With `normed` they are normalised first. The norm has no weights: those of the block's own norm
    would be one more linear map before `down`, which learns it.
    """

    def __init__(
        self,
        token_width: int,
        width: int,
        activation: Activation,
        scale: float,
        *,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(token_width, width, activation)
        self.scale = scale
        self.normed = normed

    def forward(self, branch: Tensor, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Branch and tokens (B*T, P+N, D) -> branch."""
        if self.normed:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        changed: Tensor = branch + self.scale * self.bottleneck(tokens)
        return changed
