"""Which weights and layers the parts of a backbone use, found by running them on one token.

Blocks are views that own no parameters, so a method that trains whole blocks, or changes layers
inside them, asks here. What is found is what computes: a layer whose weight is read past the layer
itself (EVA's and Swin v2's fused qkv with a bias of its own) is no layer to change.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stadapter.backbones import Backbone, TokenShape


def block_parameters(backbone: Backbone, blocks: Iterable[int]) -> set[str]:
    """Names of the backbone's parameters that these blocks read."""
    return set().union(*(_parameters_behind(backbone, i) for i in blocks))


def pool_parameters(backbone: Backbone) -> set[str]:
    """Names of those read after the last block: final norm, attention pooling."""
    return _parameters_behind(backbone, None)


def block_linears(backbone: Backbone) -> dict[str, nn.Linear]:
    """Linear layers that the blocks call, by name, in the order of the calls."""
    names = {module: name for name, module in backbone.named_modules()}
    called: dict[str, nn.Linear] = {}

    def note(module: nn.Module, *_: object) -> None:
        assert isinstance(module, nn.Linear)
        called[names[module]] = module

    linears = [module for module in names if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(note) for module in linears]
    try:
        with torch.no_grad():
            for i in range(len(backbone.blocks)):
                _run_block(backbone, i)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _parameters_behind(backbone: Backbone, block: int | None) -> set[str]:
    """Of a block's output, or of the pooled features where `block` is None."""
    parameters = dict(backbone.named_parameters())
    trains = {name: parameter.requires_grad for name, parameter in parameters.items()}
    backbone.requires_grad_(True)
    try:
        with torch.enable_grad():
            output = _run_pool(backbone) if block is None else _run_block(backbone, block)
            gradients = torch.autograd.grad(
                output.sum(), list(parameters.values()), allow_unused=True
            )
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(trains[name])
    return {
        name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    }


def _run_block(backbone: Backbone, index: int) -> Tensor:
    block = backbone.blocks[index]
    tokens, shape = block.merge(*_one_token(backbone, max(0, index - 1)))
    tokens = tokens + block.attention(tokens, shape)
    return tokens + block.mlp(tokens)


def _run_pool(backbone: Backbone) -> Tensor:
    return backbone.pool(*_one_token(backbone, len(backbone.blocks) - 1))


def _one_token(backbone: Backbone, block: int) -> tuple[Tensor, TokenShape]:
    """One frame of one patch, as wide as tokens in that block."""
    P = backbone.num_prefix_tokens
    like = next(backbone.parameters())
    return like.new_zeros(1, P + 1, backbone.blocks[block].width), TokenShape(1, 1, 1, P)
