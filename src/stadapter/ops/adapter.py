"""The whole ST-Adapter on the residual stream: tokens + up(f(dwconv3d(down(tokens)))).

`st_adapter_ref` is the definition. Where the filter looks along time only, three things are saved:

- No slicing around the prefix tokens. They go through the products with the patches, which keeps
  every matrix contiguous, and their rows are overwritten (forward) or zeroed (backward) at the end.
- One output tensor: the residual is added in place to what the up product wrote.
- Backward needs the tokens and `down(tokens)`; the filter and f are computed again.

Letters: B clips, T frames, H W patch grid, P prefix tokens, N = P + H*W tokens per frame, D token
width, A adapter width.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.ops.dwconv import Backend, dwconv3d, dwconv3d_ref, pick_backend, temporal_padding
from stadapter.ops.products import cast_dtype, product_dtype
from stadapter.ops.temporal import TimePadding, temporal_filter, temporal_filter_backward

AdapterBackend = Literal["auto", "ref", "shift", "fused", "triton", "triton_up"]
Activation = Callable[[Tensor], Tensor]


class AdapterWeights(NamedTuple):
    """The six tensors of one adapter, in the layouts of `nn.Linear` and `nn.Conv3d`."""

    down_weight: Tensor
    """(A, D)"""
    down_bias: Tensor
    """(A,)"""
    conv_weight: Tensor
    """(A, 1, kT, kH, kW)"""
    conv_bias: Tensor
    """(A,)"""
    up_weight: Tensor
    """(D, A)"""
    up_bias: Tensor
    """(D,)"""


class Placement(NamedTuple):
    """How tokens (B*T, P+H*W, D) are to be read, and how the filter looks along time."""

    num_frames: int
    height: int
    width: int
    num_prefix: int
    causal: bool = False
    padding: TimePadding = "zero"
    dilation: int = 1


def st_adapter(
    tokens: Tensor,
    weights: AdapterWeights,
    placement: Placement,
    *,
    activation: Activation | None = None,
    backend: AdapterBackend = "auto",
) -> Tensor:
    """The adapter's output: a new tensor, prefix tokens unchanged.

    Args:
        tokens: (B*T, P+H*W, D), of any strides.
        weights: of the adapter; under autocast they are cast as a linear layer's.
        placement: grid, and the settings of `dwconv3d`.
        activation: f, elementwise; None is the identity.
        backend: "ref" and "shift" are plain tensor operations, as in `dwconv3d`; "fused" and
            "triton" keep little for backward and filter on the CPU or by Triton; "triton_up" also
            makes filter, up product and residual one kernel. "auto" takes the fastest that is
            known.

    Returns:
        (B*T, P+H*W, D), of the type that `tokens + linear(tokens)` has.

    Raises:
        ValueError: a backend was asked for that cannot do this kernel, padding or device.
    """
    filter_backend: Backend = "triton" if backend == "triton_up" else backend
    chosen = pick_backend(tokens, weights.conv_weight, placement.padding, filter_backend)
    if backend == "triton_up" and activation is not None:
        raise ValueError("backend 'triton_up' has no activation; use backend 'auto'")
    if chosen == "ref":
        return st_adapter_ref(tokens, weights, placement, activation=activation)
    if chosen == "shift":
        return _composed(tokens, weights, placement, activation)
    # Products of half-precision tensors may be float32 (`product_dtype`); parameters then stay so.
    kept = cast_dtype(tokens)
    computed = product_dtype(tokens.device, kept)
    cast_weights = (w.to(computed) for w in weights)
    with torch.autocast(tokens.device.type, enabled=False):  # types are settled
        out, _, _ = _STAdapter.apply(  # type: ignore[no-untyped-call]
            tokens, *cast_weights, kept, placement, activation, chosen == "triton", backend
        )
    return cast(Tensor, out)


def st_adapter_ref(
    tokens: Tensor,
    weights: AdapterWeights,
    placement: Placement,
    *,
    activation: Activation | None = None,
) -> Tensor:
    """The definition of `st_adapter`; same arguments and result."""
    T, H, W, P, *_ = placement
    w = AdapterWeights(*(weight.to(cast_dtype(tokens)) for weight in weights))
    prefix, patches = tokens[:, :P], tokens[:, P:]
    h = F.linear(patches, w.down_weight, w.down_bias)  # (B*T, H*W, A)
    h = dwconv3d_ref(
        h.reshape(-1, T, H, W, h.shape[-1]),
        w.conv_weight,
        w.conv_bias,
        **_time_settings(placement),
    )
    if activation is not None:
        h = activation(h)
    delta = F.linear(h.reshape(-1, H * W, h.shape[-1]), w.up_weight, w.up_bias)
    return torch.cat([prefix, patches + delta], dim=1)


def _composed(
    tokens: Tensor, weights: AdapterWeights, placement: Placement, activation: Activation | None
) -> Tensor:
    """Plain operations that a compiler can fuse: the padding with zeros costs it nothing."""
    w = AdapterWeights(*(weight.to(cast_dtype(tokens)) for weight in weights))
    T, P = placement.num_frames, placement.num_prefix
    h = F.linear(tokens, w.down_weight, w.down_bias)  # (B*T, N, A)
    filtered = dwconv3d(
        h.reshape(-1, T, h.shape[1], 1, h.shape[2]),
        w.conv_weight,
        w.conv_bias,
        **_time_settings(placement),
        backend="shift",
    )
    if activation is not None:
        filtered = activation(filtered)
    delta = F.linear(filtered.reshape(h.shape), w.up_weight, w.up_bias)
    return tokens + F.pad(delta[:, P:], (0, 0, P, 0))


def _time_settings(placement: Placement) -> dict[str, Any]:
    _, _, _, _, causal, padding, dilation = placement
    return {"causal": causal, "padding": padding, "dilation": dilation}


class _STAdapter(torch.autograd.Function):
    """Outputs: the adapted tokens, and what backward reads of down(tokens) and of tokens."""

    @staticmethod
    def forward(
        tokens: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        kept: torch.dtype,
        placement: Placement,
        activation: Activation | None,
        triton: bool,
        backend: AdapterBackend,
    ) -> tuple[Tensor, Tensor, Tensor]:
        P = placement.num_prefix
        settings = _filter_settings(placement, conv_weight, triton)
        rows = tokens.reshape(-1, tokens.shape[-1]).to(up_weight.dtype)  # (B*T*N, D)
        hidden = torch.addmm(down_bias, rows, down_weight.T)
        # Tokens of another type than the products' are kept as they were multiplied.
        kept_tokens = tokens.new_empty(0) if tokens.dtype == kept else tokens.to(kept)
        kept_hidden = hidden.to(kept)
        if backend == "triton_up":
            out = _filter_up_add(
                tokens.contiguous(),
                hidden.reshape(*tokens.shape[:2], -1),
                conv_weight.flatten(1),
                conv_bias,
                up_weight,
                up_bias,
                placement.num_frames,
                P,
                settings["before"],
                settings["dilation"],
            )
            return out, kept_hidden, kept_tokens
        filtered = temporal_filter(
            _clips(hidden, tokens, placement),
            conv_weight.flatten(1),
            conv_bias,
            **settings,
        ).reshape(hidden.shape)
        if activation is not None:
            filtered = activation(filtered)
        out = torch.addmm(up_bias, filtered, up_weight.T).reshape(tokens.shape)
        out = out.add_(tokens) if out.dtype == tokens.dtype else out + tokens
        out = out.to(torch.promote_types(tokens.dtype, kept))
        out[:, :P] = tokens[:, :P]
        return out, kept_hidden, kept_tokens

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tokens, *weights, _, ctx.placement, ctx.activation, ctx.triton, _ = inputs
        _, hidden, kept_tokens = output
        ctx.mark_non_differentiable(hidden, kept_tokens)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype = tokens.shape, tokens.dtype
        ctx.save_for_backward(kept_tokens if kept_tokens.numel() else tokens, hidden, *weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 12
        with torch.autocast(grad.device.type, enabled=False):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, hidden, down_weight, _, conv_weight, conv_bias, up_weight, _ = ctx.saved_tensors
    placement, P, dtype = ctx.placement, ctx.placement.num_prefix, up_weight.dtype
    needs_tokens, *needs_weights = ctx.needs_input_grad[:7]
    settings = _filter_settings(placement, conv_weight, ctx.triton)
    hidden = _clips(hidden.to(dtype), tokens, placement)  # (B, T, N, A)
    taps = conv_weight.flatten(1)
    rows = grad.reshape(-1, grad.shape[-1]).to(dtype)  # (B*T*N, D)
    filtered = temporal_filter(hidden, taps, conv_bias, **settings)
    d_filtered = torch.mm(rows, up_weight).reshape(filtered.shape)
    if ctx.activation is not None:
        with torch.enable_grad():
            filtered.requires_grad_()
            activated = ctx.activation(filtered)
        (d_filtered,) = torch.autograd.grad(activated, filtered, d_filtered)
        filtered = activated.detach()
    # Prefix rows took part in the products, not in the result.
    filtered[:, :, :P] = 0
    d_filtered[:, :, :P] = 0
    d_hidden, d_taps, d_conv_bias = temporal_filter_backward(d_filtered, hidden, taps, **settings)
    d_hidden = d_hidden.reshape(-1, d_hidden.shape[-1])
    d_tokens = d_weights = None
    if needs_tokens:
        d_tokens = torch.addmm(rows, d_hidden, down_weight).reshape(ctx.shape).to(ctx.dtype)
    if not any(needs_weights):
        return (d_tokens, *[None] * 11)
    d_weights = (
        torch.mm(d_hidden.T, tokens.reshape(-1, ctx.shape[-1]).to(dtype)),
        d_hidden.sum(0),
        d_taps.reshape(conv_weight.shape),
        d_conv_bias,
        torch.mm(rows.T, filtered.reshape(d_hidden.shape)),
        grad[:, P:].sum((0, 1), dtype=dtype),
    )
    return (d_tokens, *d_weights, *[None] * 5)


def _clips(hidden: Tensor, tokens: Tensor, placement: Placement) -> Tensor:
    """Rows (B*T*N, A) -> (B, T, N, A)."""
    return hidden.reshape(-1, placement.num_frames, tokens.shape[-2], hidden.shape[-1])


def _filter_settings(placement: Placement, conv_weight: Tensor, triton: bool) -> dict[str, Any]:
    before, _ = temporal_padding(conv_weight.shape[2], placement.causal, placement.dilation)
    return {
        "before": before,
        "dilation": placement.dilation,
        "padding": placement.padding,
        "triton": triton,
    }


@torch.library.custom_op("stadapter::filter_up_add", mutates_args=())
def _filter_up_add(
    tokens: Tensor,
    hidden: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    num_frames: int,
    num_prefix: int,
    before: int,
    dilation: int,
) -> Tensor:
    from stadapter.ops import triton_kernels

    return triton_kernels.filter_up_add(
        tokens,
        hidden,
        conv_weight,
        conv_bias,
        up_weight,
        up_bias,
        num_frames=num_frames,
        num_prefix=num_prefix,
        before=before,
        dilation=dilation,
    )


@_filter_up_add.register_fake
def _(tokens: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(tokens)
