"""The vision tower of CLIP, in the original checkpoint layout (Radford et al., arXiv 2103.00020).

The published ST-Adapter models are trained on these weights. OpenAI's files are TorchScript
archives of the whole model; a state dict taken out of one, or its visual part alone, is read as
well. Every size is found in the tensors: width, depth, patch, resolution. Two facts are not in
them and are the original's own: heads are 64 wide, and the MLP uses QuickGELU. Parameter names are
those of the original layout.

Letters: B clips, T frames, C channels, H W patch grid, one class token (P = 1), N = H*W patch
tokens per frame, D token width.
"""

import math
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter.backbones.base import Backbone, Block, PixelConfig, TokenShape, frame_mean
from stadapter.backbones.weights import read_state_dict

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64
LAYER_NORM_EPS = 1e-5
PREFIX = "visual."


@dataclass(frozen=True)
class TowerSize:
    """What distinguishes one CLIP vision transformer from another."""

    width: int
    """D, a multiple of 64."""
    depth: int
    """Number of blocks."""
    mlp_width: int
    """Hidden units of each MLP; four times the width in OpenAI's models."""
    patch_size: int
    """Side of a patch in pixels."""
    grid_size: int
    """Patches along a side of the native, square frame."""


class OpenAIClip(Backbone):
    """CLIP's vision transformer without its projection into the space shared with text."""

    def __init__(self, size: TowerSize) -> None:
        """Make the modules, with torch's default random weights.

        Raises:
            ValueError: the width is no multiple of 64.
        """
        super().__init__()
        if size.width % HEAD_WIDTH:
            raise ValueError(f"width ({size.width}) must be a multiple of {HEAD_WIDTH}")
        D, patch, side = size.width, size.patch_size, size.grid_size
        self.id = "openai_clip"
        self.width = D
        self.patch_size = (patch, patch)
        self.num_prefix_tokens = self.num_class_tokens = 1
        self.readout = "class_token"
        self.pixels = PixelConfig(resolution=(side * patch, side * patch), mean=MEAN, std=STD)
        self.native_grid = (side, side)
        self.conv1 = nn.Conv2d(3, D, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(D) * D**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(1 + side * side, D) * D**-0.5)
        self.ln_pre = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self.transformer = _Transformer(size)
        self.ln_post = nn.LayerNorm(D, eps=LAYER_NORM_EPS)
        self._blocks = [OpenAIClipBlock(block, D) for block in self.transformer.resblocks]

    @property
    def blocks(self) -> Sequence[Block]:
        """One view per residual block."""
        return self._blocks

    def embed(self, frames: Tensor) -> Tensor:
        """Normalised frames (B*T, C, H, W) -> tokens (B*T, 1+N, D), position added, normed."""
        patches = self.conv1(frames)  # (B*T, D, H, W)
        position = self._position((patches.shape[-2], patches.shape[-1]))
        patches = patches.flatten(2).transpose(1, 2)  # (B*T, N, D)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        tokens: Tensor = self.ln_pre(torch.cat([first, patches], dim=1) + position)
        return tokens

    def pool(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """Class tokens of (B*T, 1+N, D), averaged over frames, then the last norm -> (B, D)."""
        features: Tensor = self.ln_post(frame_mean(tokens[:, 0], shape.num_frames))
        return features

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """Positions of class token and patches (1+N, D); resampled if the grid is not native."""
        table = self.positional_embedding
        if grid == self.native_grid:
            return table
        first, patches = table[:1], table[1:].float()
        patches = patches.T.reshape(1, -1, *self.native_grid)  # (1, D, H, W)
        patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True)
        return torch.cat([first, patches.flatten(2)[0].T.to(table.dtype)])


class OpenAIClipBlock(Block):
    """View of one residual block: pre-norm attention and MLP."""

    def __init__(self, block: nn.Module, width: int) -> None:
        self.block: Any = block
        self.width = width

    def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
        """`attn(ln_1(x))`, within each frame."""
        branch: Tensor = self.block.attn(self.block.ln_1(tokens))
        return branch

    def mlp(self, tokens: Tensor) -> Tensor:
        """`mlp(ln_2(x))`."""
        branch: Tensor = self.block.mlp(self.block.ln_2(tokens))
        return branch


class _Transformer(nn.Module):
    def __init__(self, size: TowerSize) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_ResidualBlock(size) for _ in range(size.depth))


class _ResidualBlock(nn.Module):
    def __init__(self, size: TowerSize) -> None:
        super().__init__()
        self.attn = _Attention(size.width)
        self.ln_1 = nn.LayerNorm(size.width, eps=LAYER_NORM_EPS)
        self.mlp = _MLP(size.width, size.mlp_width)
        self.ln_2 = nn.LayerNorm(size.width, eps=LAYER_NORM_EPS)


class _Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values packed in one matrix, in that order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.reshape(*x.shape[:2], 3, -1, HEAD_WIDTH)  # (B*T, 1+N, 3, heads, 64)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B*T, heads, 1+N, 64)
        y = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return projected


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)
        projected: Tensor = self.c_proj(h * torch.sigmoid(1.702 * h))  # QuickGELU
        return projected


def load_openai_clip(weights: Path | None) -> OpenAIClip:
    """Make the vision tower whose weights are in the file `weights`; fp16 becomes float32.

    Three layouts are known: a TorchScript archive as OpenAI publishes them, a state dict of the
    whole model (its visual names begin with "visual."), and one of the visual part alone. State
    dicts are .safetensors, or .pt and .pth read with `weights_only=True`.

    A TorchScript archive is a program with its weights. `torch.jit.load` compiles the program and
    rebuilds the tensors; no Python runs, but TorchScript code of the archive may, while it is
    rebuilt. Only the tensors are kept and the program is never called. Still, take archives only
    from somebody you trust.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file given, a damaged file, a ResNet tower, or any other model.
    """
    if weights is None:
        raise ValueError(
            "backbone 'openai_clip' is read from a file: give OpenAI's checkpoint, such as "
            "ViT-B-16.pt, as its weights (--backbone_weights FILE)"
        )
    tensors = _read_torchscript(weights) if _is_torchscript(weights) else read_state_dict(weights)
    tensors = _visual_part(tensors, weights)
    size = _find_size(tensors, weights)
    with torch.device("meta"):
        tower = OpenAIClip(size)
    _check_tensors(tower.state_dict(), tensors, weights)
    state = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    tower.load_state_dict(state, assign=True)
    return tower.eval()


def _is_torchscript(path: Path) -> bool:
    """Whether it is a zip with a table of constants, which files of torch.save do not have."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # Deprecated for saving models anew; there is no other reader for archives that exist.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated")
            module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is a damaged TorchScript archive: {_first_line(error)}"
        ) from error
    return dict(module.state_dict())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _visual_part(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tower's own tensors under the original names, without projection and text side."""
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    found = {name: tensor for name, tensor in tensors.items() if name != "proj"}
    if any(name.startswith(("layer1.", "attnpool.")) for name in found):
        raise ValueError(
            f"{path} holds a ResNet CLIP tower; adapters need a vision transformer, such as "
            "ViT-B-16.pt"
        )
    needed = ("class_embedding", "positional_embedding", "conv1.weight")
    missing = [name for name in needed if name not in found]
    if missing:
        raise ValueError(
            f"{path} is no CLIP vision transformer in the original layout: it lacks "
            f"{', '.join(missing)} (it begins with {', '.join(list(tensors)[:3]) or 'nothing'})"
        )
    return found


def _find_size(tensors: Mapping[str, Tensor], path: Path) -> TowerSize:
    def refuse(reason: str) -> ValueError:
        return ValueError(f"{path} is no CLIP vision transformer in the original layout: {reason}")

    conv, table = tensors["conv1.weight"], tensors["positional_embedding"]
    if conv.ndim != 4 or conv.shape[1] != 3 or conv.shape[2] != conv.shape[3]:
        raise refuse(f"conv1.weight {tuple(conv.shape)} must be (D, 3, patch, patch)")
    width = conv.shape[0]
    if width % HEAD_WIDTH:
        raise refuse(f"its width {width} is no multiple of the head width {HEAD_WIDTH}")
    side = math.isqrt(max(0, table.shape[0] - 1)) if table.ndim == 2 else 0
    if side < 1 or table.shape[0] != 1 + side * side:
        raise refuse(
            f"positional_embedding {tuple(table.shape)} must be (1 + side * side, {width}): a "
            "class token and a square grid"
        )
    numbers = {int(m[1]) for name in tensors if (m := _BLOCK.match(name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise refuse(f"its blocks are numbered {sorted(numbers)}, not 0, 1, 2, ...")
    hidden = tensors.get("transformer.resblocks.0.mlp.c_fc.weight")
    if hidden is None or hidden.ndim != 2:
        raise refuse("transformer.resblocks.0.mlp.c_fc.weight is missing or no matrix")
    return TowerSize(
        width=width,
        depth=len(numbers),
        mlp_width=hidden.shape[0],
        patch_size=conv.shape[2],
        grid_size=side,
    )


_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def _check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    odd = [f"{name} is missing" for name in expected if name not in found]
    odd += [f"{name} is unknown" for name in found if name not in expected]
    for name, tensor in expected.items():
        if name in found and found[name].shape != tensor.shape:
            odd.append(f"{name} is {tuple(found[name].shape)}, needs {tuple(tensor.shape)}")
    if odd:
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ValueError(
            f"{path} is no CLIP vision transformer in the original layout: "
            f"{'; '.join(odd[:5])}{more}"
        )
