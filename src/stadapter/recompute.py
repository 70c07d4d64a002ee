"""What training keeps of a frozen block for backward, and what it computes again.

A frozen block needs no gradients of its weights, so a matrix product keeps nothing but its weight.
What fills memory is the rest: inputs of norms, queries, keys, values and result of attention, and
the hidden activations of the MLP, which are most of it. These are cheap to make again: either from
the first product of the MLP, or with that product as well (torch.utils.checkpoint, which stops as
soon as it has everything that backward asks for, so that the last product is never repeated).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Recompute = Literal["none", "activations", "mlp"]
"""Parts of a block that backward computes again instead of keeping them: none; norm and activation
of each MLP; its whole first half with the adapter before it."""


def check_recompute(recompute: str) -> None:
    """Refuse what is no `Recompute`.

    Raises:
        ValueError: the name is unknown.
    """
    if recompute not in get_args(Recompute):
        raise ValueError(f"recompute ({recompute}) must be one of {', '.join(get_args(Recompute))}")


def recomputing_activations(branch: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """`branch(tokens)`; backward keeps `tokens` and products that widen them."""
    contexts = partial(create_selective_checkpoint_contexts, _keep_widening_products)
    return _checkpoint(branch, tokens, context_fn=contexts)


def recomputing(branch: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """`branch(tokens)`; backward keeps `tokens` alone."""
    return _checkpoint(branch, tokens)


def _checkpoint(branch: Callable[[Tensor], Tensor], tokens: Tensor, **options: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return branch(tokens)
    result = checkpoint(branch, tokens, use_reentrant=False, **options)
    return cast(Tensor, result)


def _keep_widening_products(_: Any, op: Any, *args: Any, **__: Any) -> CheckpointPolicy:
    """A product to a larger width costs most and its input is small; the next one is never needed.

    Weights (D, 4D) stand second in `mm` and third in `addmm`.
    """
    aten = torch.ops.aten
    if op in (aten.mm.default, aten.addmm.default):
        weight = args[-1]
        if weight.shape[1] > weight.shape[0]:
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
