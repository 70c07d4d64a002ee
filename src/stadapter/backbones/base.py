"""One frozen image transformer, seen the same way whichever library it comes from.

ST-Adapters change the residual stream *before* attention and *before* the MLP. A forward hook
cannot express that (it changes a branch, not the stream), so a backbone shows each of its blocks as
two residual branches, and `stadapter.model` owns the loop over them:

    tokens = [adapter](tokens); tokens = tokens + block.attention(tokens, shape)
    tokens = [adapter](tokens); tokens = tokens + block.mlp(tokens)

Frames, patch grid and number of prefix tokens are passed down in `TokenShape`, never guessed.

Letters: B clips, T frames, C channels, H W pixel or patch grid, P prefix tokens, N = H*W patch
tokens per frame, D token width.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from stadapter.backbones.attention import recorded_weights

Interpolation = Literal["bilinear", "bicubic"]
Positions = Literal["in_tokens", "rotary", "windows"]
Readout = Literal["class_token", "attention_pooling", "mean"]
"""How the last tokens of a frame become one feature."""
NO_OVERRIDES: Mapping[str, nn.Module] = {}


class TokenShape(NamedTuple):
    """How tokens (B*T, P+H*W, D) are to be read as clips of frames of patches."""

    num_frames: int
    height: int
    width: int
    num_prefix: int


@dataclass(frozen=True)
class PixelConfig:
    """The pixels a backbone was pretrained on; they travel in the adapter file."""

    resolution: tuple[int, int]
    """Native height and width in pixels."""
    mean: tuple[float, float, float]
    """Per-channel (RGB) mean of pixel values in [0, 1]."""
    std: tuple[float, float, float]
    """Per-channel (RGB) standard deviation of pixel values in [0, 1]."""
    interpolation: Interpolation = "bicubic"
    """How frames are resized."""


class Block(ABC):
    """One transformer block as two residual branches. A view: it owns no parameters."""

    width: int
    """D of the tokens that enter the block."""
    positions: Positions = "in_tokens"
    """How attention knows where its tokens are: by the tokens alone (then any tokens may attend to
    each other), rotated into queries and keys by the patch grid, or by windows of that grid."""

    def merge(self, tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        """What happens to the token grid before this block (patch merging); nothing by default."""
        return tokens, shape

    @abstractmethod
    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """What the block adds for attention, with its norm: (B*T, P+N, D) -> the same."""

    @abstractmethod
    def mlp(self, tokens: Tensor) -> Tensor:
        """What the block adds for its MLP, with its norm: (B*T, P+N, D) -> the same."""

    def attention_weights(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """How much each token of a frame (query) takes of each (key) in `attention`, head by head.

        Exactly the weights that `attention` multiplies the values with: (B*T, P+N, D) -> float32
        (B*T, heads, P+N, P+N), rows of sum 1.

        Raises:
            TypeError: the attention of this block is computed in a way that cannot be recorded.
        """
        return _only(recorded_weights(partial(self.attention, tokens, shape)), self)


class Backbone(nn.Module, ABC):
    """A pretrained image transformer.

    To bring a model that no library knows, subclass this: set the attributes, hold your modules,
    and implement `blocks`, `embed` and `pool`.
    """

    id: str
    """Name by which `create_backbone` makes it again, such as "timm/vit_base_patch16_224"."""
    width: int
    """D of the pooled features."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels; resolutions must be multiples."""
    num_prefix_tokens: int
    """P: class and register tokens at the front of each frame."""
    pixels: PixelConfig
    """What the pretrained weights expect to see."""
    weights_file: str | None = None
    """Local file the weights came from; None means the package, the Hub, or random."""
    pretrained: bool = True
    """False: random weights from a fixed seed, the same ones each time."""
    overrides: Mapping[str, nn.Module] = NO_OVERRIDES
    """Layers of this backbone that other modules stand in for, by name; see `override`."""
    num_class_tokens: int = 0
    """How many of the prefix tokens, from the first on, are class tokens."""
    readout: Readout = "mean"
    """What `pool` does with a frame: take its class tokens, attend to its patches, or average."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[Block]:
        """The blocks in order, as views over this module's parameters."""

    @abstractmethod
    def embed(self, frames: Tensor) -> Tensor:
        """Normalised frames (B*T, C, H, W) -> tokens (B*T, P+N, D), position added."""

    @abstractmethod
    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Last tokens (B*T, P+N, D) -> one feature per clip (B, D), final norm included."""

    def pool_weights(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """The weights with which `pool` attends to the last tokens, of a readout by attention:
        (B*T, P+N, D) -> (B*T, heads, queries, keys); the patches are the last N keys.

        Raises:
            TypeError: `pool` does not attend, or in a way that cannot be recorded.
        """
        return _only(recorded_weights(partial(self.pool, tokens, shape)), self)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch grid of a frame of `height` x `width` pixels.

        Raises:
            ValueError: a side is no multiple of the patch; the message names the nearest size.
        """
        sides = []
        for name, side, patch in zip(
            ("height", "width"), (height, width), self.patch_size, strict=True
        ):
            if side < patch or side % patch:
                nearest = max(patch, round(side / patch) * patch)
                raise ValueError(
                    f"{name} {side} does not fit backbone {self.id!r}: it must be a multiple of "
                    f"its patch size {patch}; the nearest is {nearest}"
                )
            sides.append(side // patch)
        return sides[0], sides[1]

    def override(self, layers: Mapping[str, nn.Module]) -> None:
        """Let `layers` compute instead of the backbone's own layers of those names, and no others.

        Parameters, state dict and fingerprint stay as they are: adapter sets that change what a
        layer computes take turns on one backbone and leave it as it was.
        """
        for name in self.overrides:
            del self.get_submodule(name).__dict__["forward"]
        for name, layer in layers.items():
            # What nn.Module.__call__ finds first; setattr would make it a submodule.
            self.get_submodule(name).__dict__["forward"] = layer
        self.overrides = layers

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and float32 values of all weights: which weights these are."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            digest.update(memoryview(values.reshape(-1).numpy()).cast("B"))
        return digest.hexdigest()


def frame_mean(x: Tensor, num_frames: int) -> Tensor:
    """Average over the frames of each clip: (B*T, ...) -> (B, ...)."""
    return x.reshape(-1, num_frames, *x.shape[1:]).mean(1)


def _only(recorded: list[Tensor], where: object) -> Tensor:
    if len(recorded) != 1:
        raise TypeError(
            f"{type(where).__name__} computes {len(recorded)} attentions that can be recorded, "
            "not one; its weights cannot be told"
        )
    return recorded[0]
