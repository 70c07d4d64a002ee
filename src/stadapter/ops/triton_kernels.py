"""Triton kernels of the temporal filter, forward and backward, and of filter + up + residual.

Triton looks its language up among a kernel's globals, so this file imports it at the top; whoever
needs the file imports it at first use. With TRITON_INTERPRET=1 the kernels run on the CPU.

Rows are tokens: r = (b * T + t) * N + n, so the same token one frame later is N rows further on.

Letters: B clips, T frames, N tokens per frame, P prefix tokens among them, A adapter width, K taps,
D token width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 512
"""Programs among which the sums of the weight gradients are divided; each leaves one row."""


def temporal_filter(
    x: Tensor, weight: Tensor, bias: Tensor, *, before: int, dilation: int
) -> Tensor:
    """x (B, T, N, A), weight (A, K), bias (A,) -> (B, T, N, A); zeros outside the clip."""
    y = torch.empty_like(x)
    B, T, N, A = x.shape
    block_rows, block_width = 32, _block(A)
    grid = (triton.cdiv(B * T * N, block_rows), triton.cdiv(A, block_width))
    _filter_kernel[grid](
        x,
        weight.contiguous(),
        bias,
        y,
        B * T * N,
        T,
        N,
        A,
        before,
        dilation,
        K=weight.shape[1],
        ROWS=block_rows,
        WIDTH=block_width,
    )
    return y


def temporal_filter_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, before: int, dilation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight (A, K) and bias (A,) in one pass over `grad` and `x`."""
    dx = torch.empty_like(x)
    B, T, N, A = x.shape
    K = weight.shape[1]
    block_rows, block_width = 32, _block(A)
    rows = B * T * N
    programs = min(PROGRAMS, triton.cdiv(rows, block_rows))
    partial = torch.empty(programs, K + 1, A, dtype=torch.float32, device=x.device)
    _filter_backward_kernel[(programs, triton.cdiv(A, block_width))](
        grad,
        x,
        weight.contiguous(),
        dx,
        partial,
        rows,
        T,
        N,
        A,
        before,
        dilation,
        K=K,
        TAPS=triton.next_power_of_2(K),
        ROWS=block_rows,
        WIDTH=block_width,
    )
    sums = partial.sum(0).to(weight.dtype)
    return dx, sums[:K].T.contiguous(), sums[K].clone()


def filter_up_add(
    tokens: Tensor,
    hidden: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    *,
    num_frames: int,
    num_prefix: int,
    before: int,
    dilation: int,
) -> Tensor:
    """tokens + up(filter(hidden)) in one pass; the first `num_prefix` tokens of a frame unchanged.

    Args:
        tokens: (B*T, N, D), contiguous.
        hidden: (B*T, N, A), contiguous.
        conv_weight: (A, K)
        conv_bias: (A,)
        up_weight: (D, A)
        up_bias: (D,)
        num_frames: T
        num_prefix: P
        before: frames between the first tap and the current frame.
        dilation: frames from one tap to the next.
    """
    out = torch.empty_like(tokens)
    frames, N, D = tokens.shape
    A = hidden.shape[2]
    block_rows, block_out, block_width = 64, 64, 32
    _filter_up_add_kernel[(triton.cdiv(frames * N, block_rows), triton.cdiv(D, block_out))](
        tokens,
        hidden,
        conv_weight.contiguous(),
        conv_bias,
        up_weight.contiguous(),
        up_bias,
        out,
        frames * N,
        num_frames,
        N,
        num_prefix,
        A,
        D,
        before,
        dilation,
        K=conv_weight.shape[1],
        ROWS=block_rows,
        OUT=block_out,
        WIDTH=block_width,
    )
    return out


def _block(width: int) -> int:
    return int(min(128, max(16, triton.next_power_of_2(width))))


@triton.jit
def _filter_kernel(
    x, weight, bias, y, num_rows, T, N, A, before, dilation,
    K: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    a = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (row < num_rows)[:, None] & (a < A)[None, :]
    t = (row // N) % T
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    total += tl.load(bias + a, mask=a < A, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(K):
        shift = k * dilation - before
        there = inside & ((t + shift >= 0) & (t + shift < T))[:, None]
        source = x + (row + shift * N)[:, None] * A + a[None, :]
        tap = tl.load(weight + a * K + k, mask=a < A, other=0.0).to(tl.float32)
        total += tl.load(source, mask=there, other=0.0).to(tl.float32) * tap[None, :]
    tl.store(y + row[:, None] * A + a[None, :], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _filter_backward_kernel(
    grad, x, weight, dx, partial, num_rows, T, N, A, before, dilation,
    K: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    program = tl.program_id(0)
    a = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    bias_sum = tl.zeros((WIDTH,), dtype=tl.float32)
    # Tap k of these sums is row k; Triton has no indexing of tensors by a number, so it is masked.
    taps = tl.arange(0, TAPS)
    weight_sums = tl.zeros((TAPS, WIDTH), dtype=tl.float32)
    for start in range(program * ROWS, num_rows, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        inside = (row < num_rows)[:, None] & (a < A)[None, :]
        t = (row // N) % T
        here = row[:, None] * A + a[None, :]
        x_here = tl.load(x + here, mask=inside, other=0.0).to(tl.float32)
        bias_sum += tl.sum(tl.load(grad + here, mask=inside, other=0.0).to(tl.float32), 0)
        total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
        for k in tl.static_range(K):
            # Output frame t - shift read this frame through tap k.
            shift = k * dilation - before
            there = inside & ((t - shift >= 0) & (t - shift < T))[:, None]
            source = grad + (row - shift * N)[:, None] * A + a[None, :]
            g = tl.load(source, mask=there, other=0.0).to(tl.float32)
            tap = tl.load(weight + a * K + k, mask=a < A, other=0.0).to(tl.float32)
            total += g * tap[None, :]
            weight_sums += tl.where((taps == k)[:, None], tl.sum(g * x_here, 0)[None, :], 0.0)
        tl.store(dx + here, total.to(dx.dtype.element_ty), mask=inside)
    base = partial + program * (K + 1) * A
    places = taps[:, None] * A + a[None, :]
    tl.store(base + places, weight_sums, mask=(taps < K)[:, None] & (a < A)[None, :])
    tl.store(base + K * A + a, bias_sum, mask=a < A)


@triton.jit
def _filter_up_add_kernel(
    tokens, hidden, conv_weight, conv_bias, up_weight, up_bias, out,
    num_rows, T, N, P, A, D, before, dilation,
    K: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * OUT + tl.arange(0, OUT)
    t = (row // N) % T
    total = tl.zeros((ROWS, OUT), dtype=tl.float32)
    for start in range(0, A, WIDTH):
        a = start + tl.arange(0, WIDTH)
        inside = (row < num_rows)[:, None] & (a < A)[None, :]
        filtered = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
        filtered += tl.load(conv_bias + a, mask=a < A, other=0.0).to(tl.float32)[None, :]
        for k in tl.static_range(K):
            shift = k * dilation - before
            there = inside & ((t + shift >= 0) & (t + shift < T))[:, None]
            source = hidden + (row + shift * N)[:, None] * A + a[None, :]
            tap = tl.load(conv_weight + a * K + k, mask=a < A, other=0.0).to(tl.float32)
            filtered += tl.load(source, mask=there, other=0.0).to(tl.float32) * tap[None, :]
        up = tl.load(
            up_weight + d[None, :] * A + a[:, None],
            mask=(d < D)[None, :] & (a < A)[:, None],
            other=0.0,
        )
        total += tl.dot(filtered.to(hidden.dtype.element_ty), up, input_precision="ieee")
    total += tl.load(up_bias + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    total = tl.where((row % N >= P)[:, None], total, 0.0)
    here = row[:, None] * D + d[None, :]
    inside_out = (row < num_rows)[:, None] & (d < D)[None, :]
    total += tl.load(tokens + here, mask=inside_out, other=0.0).to(tl.float32)
    tl.store(out + here, total.to(out.dtype.element_ty), mask=inside_out)
