"""Recorded attention weights are those that a block computes with, for every backbone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import ROWS, timm
from torch import Tensor, nn

from stadapter.backbones import Backbone, Block, TokenShape, create_backbone
from stadapter.backbones.attention import recorded_weights
from stadapter.backbones.openai_clip import OpenAIClip, TowerSize
from stadapter.backbones.timm import creation_options, view_timm


def _openai_clip() -> Backbone:
    tower = OpenAIClip(TowerSize(128, 2, 256, patch_size=8, grid_size=4))
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower.eval()


def _differential() -> Backbone:
    name = "vit_dlittle_patch16_reg1_gap_256"
    small = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return view_timm(timm.create_model(name, **creation_options(name), **small), id=name).eval()


CASES = {row.family: row.make for row in ROWS} | {
    "tiny": lambda: create_backbone("tiny"),
    "OpenAI CLIP file": _openai_clip,
    "differential": _differential,
}
SIZES = {row.family: row.other for row in ROWS}
every_case = pytest.mark.parametrize("case", CASES)


def _run(case: str) -> tuple[Backbone, Tensor, TokenShape]:
    """A backbone, and tokens of two random frames whose grid is not the native one."""
    torch.manual_seed(0)
    backbone = CASES[case]()
    height, width = SIZES.get(case, (48, 32))
    tokens = backbone.embed(torch.randn(2, 3, height, width))
    shape = TokenShape(2, *backbone.grid(height, width), backbone.num_prefix_tokens)
    return backbone, tokens, shape


@every_case
@torch.no_grad()
def test_weights_times_values_are_what_attention_returns(case: str) -> None:
    backbone, tokens, shape = _run(case)
    for block in backbone.blocks:
        tokens, shape = block.merge(tokens, shape)
        weights = block.attention_weights(tokens, shape)
        N = tokens.shape[1]
        assert weights.shape[0] == 2 and weights.shape[2:] == (N, N)
        if case != "differential":
            assert weights.min() >= 0 and weights.sum(-1).max() < 1 + 1e-5
        if case != "differential" and not case.startswith("Swin"):
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
        branch = block.attention(tokens, shape)
        torch.testing.assert_close(_branch(block, tokens, weights), branch, rtol=1e-5, atol=1e-5)
        tokens = tokens + branch
        tokens = tokens + block.mlp(tokens)


def _branch(block: Any, tokens: Tensor, weights: Tensor) -> Tensor:
    """The attention branch from given weights: values, projection, norms, written out again."""
    if hasattr(block, "self_attention"):  # transformers
        attn = block.self_attention
        y = _mix(weights, attn.v_proj(block.norm(tokens)))
        y = (attn.out_proj if hasattr(attn, "out_proj") else attn.o_proj)(y)
        for module in block.scales:
            y = module(y)
        return y
    b = block.block
    attn = b.attn
    if hasattr(attn, "in_proj_weight"):  # OpenAI's layout
        v = F.linear(b.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)[2]
        return attn.out_proj(_mix(weights, v))
    norm_last = "Post" in type(b).__name__ or "V2" in type(b).__name__
    x = tokens if norm_last else b.norm1(tokens)
    if hasattr(attn, "lambda_init"):
        v = attn.qkv(x).chunk(3, -1)[2].unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)
        y = attn.sub_norm(weights @ v) * (1 - attn.lambda_init)
        y = y.transpose(1, 2).flatten(2)
    elif getattr(attn, "v_proj", None) is not None:
        y = _mix(weights, attn.v_proj(x))
    else:
        v_bias = getattr(attn, "v_bias", None)  # Eva and Swin v2 keep it apart
        if v_bias is None and attn.qkv.bias is not None:
            v_bias = attn.qkv.bias.chunk(3)[2]
        v = F.linear(x, attn.qkv.weight.chunk(3)[2], v_bias)
        # Swin pads with zeros, whose value is the bias: the rest of each row falls on them.
        rest = 1 - weights.sum(-1, keepdim=True) if "Swin" in type(b).__name__ else None
        y = _mix(weights, v, rest, v_bias)
    y = attn.proj(getattr(attn, "norm", nn.Identity())(y))
    if norm_last:
        return b.norm1(y)
    if getattr(b, "gamma_1", None) is not None:
        y = b.gamma_1 * y
    return getattr(b, "ls1", nn.Identity())(y)


def _mix(
    weights: Tensor, v: Tensor, rest: Tensor | None = None, padding: Tensor | None = None
) -> Tensor:
    """weights (B, heads, N, N) times values (B, N, D), head by head -> (B, N, D)."""
    heads = weights.shape[1]
    y = weights @ v.unflatten(-1, (heads, -1)).transpose(1, 2)
    if rest is not None and padding is not None:
        y = y + rest * padding.reshape(heads, 1, -1)
    return y.transpose(1, 2).flatten(2)


@every_case
@torch.no_grad()
def test_the_readout_is_what_pool_does(case: str) -> None:
    """Which tokens the feature depends on, and whether weights of its pooling can be told."""
    backbone, tokens, shape = _run(case)
    for block in backbone.blocks:
        tokens, shape = block.merge(tokens, shape)
        tokens = tokens + block.attention(tokens, shape)
        tokens = tokens + block.mlp(tokens)
    tokens = tokens + 0.1 * torch.randn_like(tokens)
    feature = backbone.pool(tokens, shape)

    def changes(part: slice) -> bool:
        other = tokens.clone()
        other[:, part] += torch.randn_like(other[:, part])
        return not torch.allclose(backbone.pool(other, shape), feature)

    C, P, N = backbone.num_class_tokens, shape.num_prefix, shape.height * shape.width
    assert 0 <= C <= P == tokens.shape[1] - N
    assert changes(slice(P, None)) == (backbone.readout != "class_token")
    if backbone.readout == "class_token":
        assert C > 0 and all(changes(slice(i, i + 1)) for i in range(C))
        assert C == P or not changes(slice(C, P))
    if backbone.readout == "attention_pooling":
        weights = backbone.pool_weights(tokens, shape)
        assert weights.ndim == 4 and weights.shape[-1] in (N, P + N)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    else:
        with pytest.raises(TypeError, match="computes 0 attentions"):
            backbone.pool_weights(tokens, shape)


@pytest.mark.parametrize("family", ["SigLIP, SigLIP 2", "HF SigLIP"])
@torch.no_grad()
def test_pooling_weights_are_what_pooling_multiplies_with(family: str) -> None:
    [row] = [row for row in ROWS if row.family == family]
    backbone, tokens, shape = _run(row.family)
    weights = backbone.pool_weights(tokens, shape)
    model: Any = backbone.model
    if family == "HF SigLIP":
        head = model.head
        attn, x = head.attention, model.post_layernorm(tokens)
        v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)[2]
        y = attn.out_proj(_mix(weights, v))
        y = y + head.mlp(head.layernorm(y))
    else:
        pool = model.attn_pool
        v = pool.kv(model.norm(tokens)).chunk(2, -1)[1]
        y = pool.proj(_mix(weights, v))
        y = y + pool.mlp(pool.norm(y))
    expected = model.fc_norm(y[:, 0]) if family != "HF SigLIP" else y[:, 0]
    torch.testing.assert_close(
        backbone.pool(tokens, shape), expected.mean(0, keepdim=True), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_unfused_attention_has_the_same_weights() -> None:
    """timm's other path computes the softmax itself (TIMM_FUSED_ATTN=0)."""
    for case in ("AugReg, MAE, DINO", "EVA-02", "Swin", "differential"):
        backbone, tokens, shape = _run(case)
        block: Any = backbone.blocks[0]
        expected = block.attention_weights(tokens, shape)
        block.block.attn.fused_attn = not block.block.attn.fused_attn
        weights = block.attention_weights(tokens, shape)
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "bias", "grouped", "scaled"])
def test_every_argument_of_fused_attention_counts(mask: str) -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8)
    options: dict[str, Any] = {
        "none": {},
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(1)},
        "bias": {"attn_mask": torch.randn(2, 1, 5, 5)},
        "grouped": {"enable_gqa": True},
        "scaled": {"scale": 0.5},
    }[mask]
    if mask == "grouped":
        k, v = k[:, :2], v[:, :2]
    outputs: list[Tensor] = []
    [weights] = recorded_weights(
        lambda: outputs.append(F.scaled_dot_product_attention(q, k, v, **options))
    )
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    torch.testing.assert_close(weights @ v, outputs[0], rtol=1e-5, atol=1e-5)


def test_a_block_without_attention_says_so() -> None:
    class Still(Block):
        width = 4

        def attention(self, tokens: Tensor, shape: TokenShape) -> Tensor:
            return torch.zeros_like(tokens)

        def mlp(self, tokens: Tensor) -> Tensor:
            return torch.zeros_like(tokens)

    with pytest.raises(TypeError, match="Still computes 0 attentions"):
        Still().attention_weights(torch.zeros(1, 4, 4), TokenShape(1, 2, 2, 0))
