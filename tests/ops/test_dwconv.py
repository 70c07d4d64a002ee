"""The shift path equals the definition, and the definition is what the docstring says."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from stadapter.ops import dwconv3d, dwconv3d_ref

Time = dict[str, Any]
KERNELS = ((1, 1, 1), (3, 1, 1), (5, 1, 1), (3, 3, 3), (1, 3, 5), (5, 3, 3))
TEMPORAL = [kernel for kernel in KERNELS if kernel[1:] == (1, 1)]
TIME = [
    {"causal": causal, "padding": padding, "dilation": dilation}
    for causal in (False, True)
    for padding, dilation in (("zero", 1), ("replicate", 1), ("zero", 3), ("replicate", 2))
]
every_time = pytest.mark.parametrize("time", TIME, ids=lambda t: "-".join(map(str, t.values())))


def make(
    num_frames: int, width: int, kernel: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """x (2, T, 3, 2, A), weight, bias; all require gradients."""
    x = torch.randn(2, num_frames, 3, 2, width, dtype=dtype)
    weight = torch.randn(width, 1, *kernel, dtype=dtype)
    bias = torch.randn(width, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def outcome(
    x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, *, time: Time, backend: str
) -> list[Tensor]:
    """Output and gradients."""
    y = dwconv3d(x, weight, bias, **time, backend=backend)
    return [y, *torch.autograd.grad(y, (x, weight, bias), grad)]


@every_time
@pytest.mark.parametrize("kernel", TEMPORAL)
@pytest.mark.parametrize("num_frames", [1, 2, 7])
@pytest.mark.parametrize("width", [1, 127])
def test_shift_equals_the_definition(
    num_frames: int, width: int, kernel: tuple[int, int, int], time: Time
) -> None:
    x, weight, bias = make(num_frames, width, kernel)
    grad = torch.randn_like(x)
    shift = outcome(x, weight, bias, grad, time=time, backend="shift")
    for got, expected in zip(
        shift, outcome(x, weight, bias, grad, time=time, backend="ref"), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", TEMPORAL)
def test_bfloat16(kernel: tuple[int, int, int]) -> None:
    x, weight, bias = make(7, 16, kernel)
    half = [t.detach().bfloat16() for t in (x, weight, bias)]
    shift = dwconv3d(*half, backend="shift")
    assert shift.dtype == torch.bfloat16
    torch.testing.assert_close(
        shift.float(), dwconv3d_ref(*(t.float() for t in half)), rtol=0.05, atol=0.1
    )


@pytest.mark.parametrize("backend", ["ref", "shift", "auto"])
def test_strides_do_not_matter(backend: str) -> None:
    _, weight, bias = make(1, 5, (3, 1, 1))
    large = torch.randn(2, 5, 2, 9, 7)
    x = large.permute(0, 3, 1, 2, 4)[:, 1:8, ..., 1:6]  # (2, 7, 5, 2, 5)
    assert not x.is_contiguous()
    expected = dwconv3d_ref(x.contiguous(), weight, bias)
    torch.testing.assert_close(dwconv3d(x, weight, bias, backend=backend), expected)


@every_time
@pytest.mark.parametrize("kernel", KERNELS)
def test_definition_by_loops(kernel: tuple[int, int, int], time: Time) -> None:
    """Every output is a sum over the kernel; outside are zeros, or in time the nearest frame."""
    x, weight, bias = (t.detach().double() for t in make(4, 2, kernel))
    kT, kH, kW = kernel
    before = (kT - 1 if time["causal"] else kT // 2) * time["dilation"]
    expected = bias.expand_as(x).clone()
    B, T, H, W, _ = x.shape
    for b, t, h, w in itertools.product(range(B), range(T), range(H), range(W)):
        for i, j, k in itertools.product(range(kT), range(kH), range(kW)):
            tt, hh, ww = t + i * time["dilation"] - before, h + j - kH // 2, w + k - kW // 2
            if time["padding"] == "replicate":
                tt = min(max(tt, 0), T - 1)
            if 0 <= tt < T and 0 <= hh < H and 0 <= ww < W:
                expected[b, t, h, w] += weight[:, 0, i, j, k] * x[b, tt, hh, ww]
    torch.testing.assert_close(dwconv3d_ref(x, weight, bias, **time), expected)
    torch.testing.assert_close(dwconv3d(x, weight, bias, **time), expected)


@every_time
@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (5, 1, 1), (3, 3, 3)])
def test_gradients(kernel: tuple[int, int, int], time: Time) -> None:
    x, weight, bias = make(3, 2, kernel, torch.float64)
    inputs = x.detach()[:1].requires_grad_(), weight, bias
    assert torch.autograd.gradcheck(lambda *a: dwconv3d_ref(*a, **time), inputs)
    assert torch.autograd.gradcheck(lambda *a: dwconv3d(*a, **time), inputs)


@pytest.mark.parametrize("backend", ["ref", "auto"])
@pytest.mark.parametrize("kernel", [(3, 1, 1), (5, 1, 1), (3, 3, 3)])
def test_causal_looks_only_back(kernel: tuple[int, int, int], backend: str) -> None:
    x, weight, bias = (t.detach() for t in make(6, 4, kernel))
    changed = x.clone()
    changed[:, 4:] += 1

    def differs(causal: bool) -> list[bool]:
        a, b = (dwconv3d(v, weight, bias, causal=causal, backend=backend) for v in (x, changed))
        return [not torch.equal(a[:, t], b[:, t]) for t in range(6)]

    assert differs(causal=True) == [False, False, False, False, True, True]
    first = 4 - kernel[0] // 2
    assert differs(causal=False) == [t >= first for t in range(6)]


def test_the_input_is_not_written() -> None:
    x, weight, bias = make(4, 3, (3, 1, 1))
    before = x.detach().clone()
    dwconv3d(x, weight, bias)
    assert torch.equal(x, before)


def test_shift_refuses_a_kernel_along_space() -> None:
    x, weight, bias = make(3, 2, (3, 3, 3))
    with pytest.raises(ValueError, match=r"'shift' filters along time only.*\(3, 3, 3\)"):
        dwconv3d(x, weight, bias, backend="shift")
    torch.testing.assert_close(dwconv3d(x, weight, bias), dwconv3d_ref(x, weight, bias))
