"""The Triton kernels equal the definition: on a GPU, or on the CPU by Triton's interpreter."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from stadapter.ops import AdapterWeights, Placement, dwconv3d, st_adapter

if find_spec("triton") is None:
    pytest.skip("the extra triton is not installed", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
here = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="run by test_by_the_interpreter"
)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device=DEVICE).mul_(0.5).to(dtype).requires_grad_()


@here
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [1, 127])
def test_filter(dtype: torch.dtype, causal: bool, width: int) -> None:
    for T, taps, dilation in ((1, 3, 1), (2, 5, 1), (7, 3, 2)):
        x = randn(2, T, 3, 1, width, dtype=dtype)
        weight, bias = randn(width, 1, taps, 1, 1, dtype=dtype), randn(width, dtype=dtype)
        grad = randn(*x.shape, dtype=dtype).detach()
        results = []
        for backend in ("triton", "ref"):
            exact = [x, weight, bias]
            if backend == "ref":
                exact = [t.detach().float().requires_grad_() for t in exact]
            y = dwconv3d(*exact, causal=causal, dilation=dilation, backend=backend)  # type: ignore[arg-type]
            gradients = torch.autograd.grad(y, exact, grad.to(y.dtype))
            results.append([y, *gradients])
        for a, b in zip(*results, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.float(), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@here
@pytest.mark.parametrize("backend", ["triton", "triton_up"])
@pytest.mark.parametrize(("token_width", "width", "num_prefix"), [(9, 5, 0), (70, 33, 2)])
def test_adapter(backend: str, token_width: int, width: int, num_prefix: int) -> None:
    D, A = token_width, width
    shapes = ((A, D), (A,), (A, 1, 3, 1, 1), (A,), (D, A), (D,))
    weights = AdapterWeights(*(randn(*shape) for shape in shapes))
    tokens = randn(6, num_prefix + 4, D)
    grad = torch.randn_like(tokens)
    results = []
    for path in (backend, "ref"):
        y = st_adapter(tokens, weights, Placement(3, 2, 2, num_prefix), backend=path)  # type: ignore[arg-type]
        results.append([y, *torch.autograd.grad(y, (tokens, *weights), grad)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@here
def test_strides_do_not_matter() -> None:
    x = randn(7, 2, 5, 1, 6).transpose(0, 1)
    weight, bias = randn(6, 1, 3, 1, 1), randn(6)
    expected = dwconv3d(x, weight, bias, backend="ref")
    torch.testing.assert_close(dwconv3d(x, weight, bias, backend="triton"), expected)


@here
def test_what_the_kernels_cannot_do_is_refused() -> None:
    x, weight, bias = randn(1, 2, 2, 1, 4), randn(4, 1, 3, 1, 1), randn(4)
    with pytest.raises(ValueError, match="pads with zeros only, not 'replicate'"):
        dwconv3d(x, weight, bias, padding="replicate", backend="triton")
    doubles = [t.double() for t in (x, weight, bias)]
    with pytest.raises(ValueError, match=r"takes float32, .* not torch\.float64"):
        dwconv3d(*doubles, backend="triton")  # type: ignore[arg-type]


@here
def test_the_operator_is_registered_properly() -> None:
    x, weight, bias = randn(1, 3, 2, 4), randn(4, 3), randn(4)
    operator = torch.ops.stadapter.temporal_filter.default
    for triton in (False, True):
        torch.library.opcheck(operator, (x, weight, bias, 1, 1, False, triton))


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the kernels run here")
def test_by_the_interpreter() -> None:
    """Triton decides whether to interpret when it is imported first, so in a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout


@pytest.mark.skipif(INTERPRETED, reason="compiled by the process that started this one")
def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """The interpreter accepts what the compiler would not."""
    code = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from stadapter.ops import triton_kernels

def compile(kernel, pointers, **constants):
    names = kernel.arg_names
    types = {n: pointers.get(n, "i32") for n in names} | {n: "constexpr" for n in constants}
    places = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature=types, constexprs=places)
    triton.compile(source, target=GPUTarget("cuda", 90, 32))

half = dict.fromkeys(("x", "weight", "bias", "y", "grad", "dx"), "*bf16")
compile(triton_kernels._filter_kernel, half, K=3, ROWS=32, WIDTH=128)
half["partial"] = "*fp32"
compile(triton_kernels._filter_backward_kernel, half, K=3, TAPS=4, ROWS=32, WIDTH=128)
names = ("tokens", "hidden", "conv_weight", "conv_bias", "up_weight", "up_bias", "out")
compile(
    triton_kernels._filter_up_add_kernel, dict.fromkeys(names, "*bf16"),
    K=3, ROWS=64, OUT=64, WIDTH=32,
)
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
