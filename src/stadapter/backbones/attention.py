"""The weights of an attention, recorded while a library computes it.

Fused attention never holds its weights. But what it is given says them: queries and keys after
their norms and rotation, and the bias or mask of positions. So the weights are recomputed from the
arguments of that one call, softmax(q k^T / sqrt(d) + bias) (Vaswani et al., arXiv 1706.03762,
section 3.2), and no library's way to its queries is repeated here. Where a library computes the
softmax itself, its result is taken.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


def recorded_weights(run: Callable[[], Any]) -> list[Tensor]:
    """Weights (batch, heads, queries, keys) of every attention that `run` computes, in order."""
    recorder = _Recorder()
    with recorder:
        run()
    return recorder.weights


class _Recorder(TorchFunctionMode):
    """Changes no result: each call goes on as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.weights.append(_weights(*args, **kwargs))
        elif func is F.multi_head_attention_forward:  # of nn.MultiheadAttention
            asked = {**kwargs, "need_weights": True, "average_attn_weights": False}
            output, weights = func(*args, **asked)
            self.weights.append(weights)
            return output, weights
        result = func(*args, **kwargs)
        if func in _SOFTMAX:
            self.weights.append(result)
        return result


def _weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `F.scaled_dot_product_attention` multiplies `value` with, without dropout, float32."""
    query, key = query.float(), key.float()
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)
