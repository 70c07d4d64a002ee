"""A number per patch of each frame: where a model looks, or what it changes.

Letters: T frames, H W patch grid of a block, P prefix tokens, N = H*W patch tokens per frame.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from stadapter.backbones import Backbone, Block, TokenShape
from stadapter.model import VideoClassifier

MapKind = Literal["class_token", "attention_pooling", "received", "patch_norm"]
"""What a map shows; see `default_kind`.

class_token: attention of the class token to each patch, in a block.
attention_pooling: attention of the backbone's own pooling to each patch, after the last block.
received: attention to each patch, averaged over all patches that look, in a block.
patch_norm: length (L2) of what a block and its adapters add to each patch token.
"""
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)


@dataclass(frozen=True)
class Maps:
    """Maps of one block (or of the pooling) over the frames of a clip, as they were computed."""

    mean: Tensor
    """(T, H, W): mean of the heads; of patch_norm the norms."""
    heads: Tensor
    """(heads, T, H, W); patch_norm has none."""
    rollout: Tensor | None = None
    """(T, H, W): attention followed from the first block to this one, where it was asked for."""

    @property
    def on_patches(self) -> float:
        """Share of the mean attention that falls on patches; the rest falls on prefix tokens."""
        return self.mean.sum((1, 2)).mean().item()


def relative(maps: Tensor) -> Tensor:
    """(..., H, W) in multiples of the frame's mean: 1 is the share of a patch if all were equal."""
    mean = maps.abs().mean((-2, -1), keepdim=True)
    return maps / mean.clamp(min=torch.finfo(maps.dtype).tiny)


def default_kind(backbone: Backbone) -> MapKind:
    """What the backbone reads its feature out with; norms of patches if it only averages them."""
    kinds: dict[str, MapKind] = {"mean": "patch_norm"}
    kinds |= {"class_token": "class_token", "attention_pooling": "attention_pooling"}
    return kinds[backbone.readout]


def check_kind(backbone: Backbone, kind: MapKind) -> None:
    """Whether the backbone has such maps.

    Raises:
        ValueError: it has no class token, or no attention pooling.
    """
    missing = {
        "class_token": backbone.num_class_tokens == 0 and "class token",
        "attention_pooling": backbone.readout != "attention_pooling" and "attention pooling",
    }.get(kind)
    if missing:
        raise ValueError(
            f"backbone {backbone.id!r} has no {missing}; leave --map out for "
            f"{default_kind(backbone)!r}, or choose 'received' or 'patch_norm'"
        )


def can_roll_out(backbone: Backbone, kind: MapKind) -> bool:
    """Whether rollout is defined: attention, and the same patches in all blocks."""
    return kind != "patch_norm" and len({block.width for block in backbone.blocks}) == 1


@torch.no_grad()
def clip_maps(
    model: VideoClassifier,
    video: Tensor,
    kind: MapKind,
    *,
    blocks: Collection[int],
    rollout: bool = False,
) -> tuple[dict[int, Maps], Tensor]:
    """Maps of one clip by block, and the logits (K,).

    Args:
        model: in evaluation mode.
        video: normalised (1, T, C, H, W).
        kind: what the maps show; of attention_pooling there is one, under the last block.
        blocks: of which blocks, from 0 on.
        rollout: follow attention through the blocks below, too (Abnar and Zuidema, arXiv
            2005.00928, section 3). Attention only: what adapters carry between frames is not in it.

    Raises:
        ValueError: rollout where blocks merge patches, or where there are no heads.
        TypeError: an attention that cannot be recorded.
    """
    backbone = model.backbone
    if rollout and kind == "patch_norm":
        raise ValueError("rollout follows attention; norms of patches (patch_norm) have none")
    tokens, shape = model.embed(video)
    with _watched(backbone) as trace:
        tokens, shape = model.run_blocks(tokens, shape)
    logits: Tensor = model.adapter_set.head(model.pool(tokens, shape))[0]
    if kind == "patch_norm":
        arrived = [seen.arrived for seen in trace[1:]] + [tokens]
        return {i: _norms(trace[i], arrived[i]) for i in blocks}, logits
    found: dict[int, Maps] = {}
    joint: Tensor | None = None
    for i, seen in enumerate(trace):
        wanted = i in blocks and kind != "attention_pooling"
        if wanted or rollout:
            weights = _weights(backbone.blocks[i], seen)
            joint = _followed(joint, weights, backbone) if rollout else None
        if wanted:
            heads = _looked_at(weights, kind, backbone, seen.shape)
            found[i] = Maps(
                heads.mean(0),
                heads,
                None if joint is None else _looked_at(joint, kind, backbone, seen.shape)[0],
            )
    if kind == "attention_pooling":
        weights = backbone.pool_weights(tokens, shape).mean(2, keepdim=True)  # (T, heads, 1, keys)
        heads = _on_grid(weights, shape)
        if joint is not None:  # (T, 1, P+N, P+N); keys may be the patches alone
            joint = weights.mean(1, keepdim=True) @ joint[:, :, -weights.shape[-1] :]
        followed = None if joint is None else _on_grid(joint, shape)[0]
        found[len(trace) - 1] = Maps(heads.mean(0), heads, followed)
    return found, logits


@dataclass
class _Seen:
    """What went through one block."""

    arrived: Tensor
    """Tokens that arrived at the block (T, P+N, D)."""
    stream: Tensor
    """The same after merging, before its first adapter."""
    tokens: Tensor
    """Tokens that entered its attention within frames."""
    shape: TokenShape


@contextmanager
def _watched(backbone: Backbone) -> Iterator[list[_Seen]]:
    """Note what each block is given while the model runs, whatever a method does around it.

    A method may call a block's attention more than once, over time say; what is noted is the last
    call with tokens that are frames.
    """
    trace: list[_Seen] = []
    blocks = list(backbone.blocks)
    for block in blocks:
        _watch(block, trace)
    try:
        yield trace
    finally:
        for block in blocks:
            del vars(block)["merge"], vars(block)["attention"]
    if len(trace) != len(blocks):
        raise TypeError(
            f"{type(backbone).__name__}.blocks must give the same blocks at each call: "
            f"{len(trace)} of {len(blocks)} were met again"
        )


def _watch(block: Block, trace: list[_Seen]) -> None:
    merge, attention = block.merge, block.attention

    def watched_merge(tokens: Tensor, shape: TokenShape) -> tuple[Tensor, TokenShape]:
        merged, shape = merge(tokens, shape)
        trace.append(_Seen(tokens, merged, merged, shape))
        return merged, shape

    def watched_attention(tokens: Tensor, shape: TokenShape) -> Tensor:
        seen = trace[-1]
        frame = shape.num_prefix + shape.height * shape.width
        if shape[:3] == seen.shape[:3] and tokens.shape[:2] == (shape.num_frames, frame):
            seen.tokens, seen.shape = tokens, shape
        return attention(tokens, shape)

    vars(block).update(merge=watched_merge, attention=watched_attention)


def _weights(block: Block, seen: _Seen) -> Tensor:
    """(T, heads, P+N, P+N), frame by frame: what is computed on the way is larger still."""
    shape = seen.shape._replace(num_frames=1)
    return torch.cat([block.attention_weights(frame[None], shape) for frame in seen.tokens])


def _looked_at(weights: Tensor, kind: MapKind, backbone: Backbone, shape: TokenShape) -> Tensor:
    """(T, heads, P+N, P+N) -> (heads, T, H, W)."""
    if kind == "class_token":
        looking = weights[:, :, : backbone.num_class_tokens]
    else:
        looking = weights[:, :, -shape.height * shape.width :]
    return _on_grid(looking.mean(2, keepdim=True), shape)


def _on_grid(weights: Tensor, shape: TokenShape) -> Tensor:
    """(T, heads, 1, keys), the last N of them patches -> (heads, T, H, W)."""
    H, W = shape.height, shape.width
    return weights[:, :, 0, -H * W :].reshape(*weights.shape[:2], H, W).transpose(0, 1)


def _followed(joint: Tensor | None, weights: Tensor, backbone: Backbone) -> Tensor:
    """One more block of rollout (T, 1, P+N, P+N): half of each token comes from itself, by the
    residual stream."""
    own = torch.eye(weights.shape[-1], device=weights.device)
    mixed = (weights.mean(1, keepdim=True) + own) / 2
    mixed = mixed / mixed.sum(-1, keepdim=True)
    if joint is None:
        return mixed
    if joint.shape != mixed.shape:
        raise ValueError(
            f"backbone {backbone.id!r} merges patches between blocks, which rollout cannot follow"
        )
    return mixed @ joint


def _norms(seen: _Seen, after: Tensor) -> Maps:
    """What a block added, adapters included."""
    T, H, W, _ = seen.shape
    norms = (after[:, -H * W :] - seen.stream[:, -H * W :]).norm(dim=-1).reshape(T, H, W)
    return Maps(norms, norms.new_empty(0, T, H, W))
