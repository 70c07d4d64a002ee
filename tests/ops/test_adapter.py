"""Every path of the adapter equals the definition, gradients too; backward keeps little."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter.ops import AdapterWeights, Placement, st_adapter, st_adapter_ref

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.06}


def make_weights(
    token_width: int, width: int, kernel: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> AdapterWeights:
    D, A = token_width, width
    shapes = ((A, D), (A,), (A, 1, *kernel), (A,), (D, A), (D,))
    return AdapterWeights(*(torch.randn(s).mul_(0.3).to(dtype).requires_grad_() for s in shapes))


def outcome(
    tokens: Tensor,
    weights: AdapterWeights,
    placement: Placement,
    grad: Tensor,
    backend: str,
    gelu: bool = False,
) -> list[Tensor]:
    """Output and all gradients."""
    activation = F.gelu if gelu else None
    y = st_adapter(tokens, weights, placement, activation=activation, backend=backend)
    return [y, *torch.autograd.grad(y, (tokens, *weights), grad)]


@pytest.mark.parametrize("backend", ["shift", "fused", "auto"])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("kernel_frames", [1, 3, 5])
def test_paths_equal_the_definition(
    backend: str, gelu: bool, num_prefix: int, kernel_frames: int
) -> None:
    weights = make_weights(9, 5, (kernel_frames, 1, 1))
    for T, causal, padding, dilation in itertools.product(
        (1, 4), (False, True), ("zero", "replicate"), (1, 3)
    ):
        placement = Placement(T, 2, 3, num_prefix, causal, padding, dilation)  # type: ignore[arg-type]
        tokens = torch.randn(2 * T, num_prefix + 6, 9, requires_grad=True)
        grad = torch.randn_like(tokens)
        expected = outcome(tokens, weights, placement, grad, "ref", gelu)
        got = outcome(tokens, weights, placement, grad, backend, gelu)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert torch.equal(got[0][:, :num_prefix], tokens[:, :num_prefix])


def test_a_kernel_along_space_takes_the_definition() -> None:
    weights, placement = make_weights(6, 4, (3, 3, 3)), Placement(3, 2, 3, 1)
    tokens = torch.randn(3, 7, 6, requires_grad=True)
    grad = torch.randn_like(tokens)
    expected = outcome(tokens, weights, placement, grad, "ref")
    for a, b in zip(outcome(tokens, weights, placement, grad, "auto"), expected, strict=True):
        assert torch.equal(a, b)
    for backend in ("shift", "fused", "triton", "triton_up"):
        with pytest.raises(ValueError, match=r"filters along time only.*\(3, 3, 3\)"):
            st_adapter(tokens, weights, placement, backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    weights = make_weights(6, 3, (3, 1, 1), dtype)
    tokens = torch.randn(5, 16, 9).to(dtype).permute(1, 0, 2)[2:14:2, :, 1:7].requires_grad_()
    assert not tokens.is_contiguous()
    grad = torch.randn(6, 6, 5).to(dtype).transpose(1, 2)
    placement = Placement(3, 2, 2, 1)
    before = tokens.detach().clone()
    got = outcome(tokens, weights, placement, grad, "fused")
    expected = outcome(
        tokens.detach().contiguous().requires_grad_(), weights, placement, grad, "ref"
    )
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("backend", ["ref", "fused", "shift"])
def test_gradients(backend: str) -> None:
    weights = make_weights(3, 2, (3, 1, 1), torch.float64)
    tokens = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    placement = Placement(2, 1, 2, 1)

    def function(tokens: Tensor, *weights: Tensor) -> Tensor:
        return st_adapter(
            tokens, AdapterWeights(*weights), placement, activation=torch.tanh, backend=backend
        )

    assert torch.autograd.gradcheck(function, (tokens, *weights))


def test_only_what_needs_a_gradient_gets_one() -> None:
    weights, placement = make_weights(4, 3, (3, 1, 1)), Placement(2, 2, 1, 1)
    frozen = AdapterWeights(*(w.detach() for w in weights))
    tokens = torch.randn(2, 3, 4, requires_grad=True)
    st_adapter(tokens, frozen, placement, backend="fused").sum().backward()
    expected = copy.deepcopy(tokens.grad)
    tokens.grad = None
    st_adapter(tokens, weights, placement, backend="fused").sum().backward()
    assert torch.equal(tokens.grad, expected)
    gradients = [w.grad for w in weights]
    for w in weights:
        w.grad = None
    st_adapter(tokens.detach(), weights, placement, backend="fused").sum().backward()
    for w, gradient in zip(weights, gradients, strict=True):
        assert torch.equal(w.grad, gradient)


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_autocast(stream: torch.dtype) -> None:
    """As linear layers would do it: products in bf16, the stream as it was, float32 gradients."""
    weights, placement = make_weights(8, 4, (3, 1, 1)), Placement(3, 2, 2, 1)
    tokens = torch.randn(3, 5, 8).to(stream).requires_grad_()
    grad = torch.randn_like(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = outcome(tokens, weights, placement, grad, "fused")
        expected = outcome(tokens, weights, placement, grad, "ref")
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.1)


def test_backward_keeps_tokens_and_hidden_only() -> None:
    T, N, D, A = 4, 6, 16, 8
    weights, placement = make_weights(D, A, (3, 1, 1)), Placement(T, 2, 3, 1)
    tokens = torch.randn(T, 1 + N, D, requires_grad=True)

    def saved(backend: str) -> int:
        sizes = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = st_adapter(tokens, weights, placement, backend=backend)  # type: ignore[arg-type]
        assert y.requires_grad
        return sum(sizes.values())

    parameters = sum(w.numel() for w in weights)
    assert saved("fused") <= 4 * (parameters + tokens.numel() + T * (1 + N) * A)
    assert saved("fused") < saved("ref")


@pytest.mark.parametrize("kernel", [(3, 1, 1), (3, 3, 3)])
def test_compile_and_export(kernel: tuple[int, int, int]) -> None:
    weights, placement = make_weights(4, 3, kernel), Placement(2, 2, 2, 1)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(weights)

        def forward(self, tokens: Tensor) -> Tensor:
            return st_adapter(tokens, AdapterWeights(*self.weights), placement)

    module, tokens = Module(), torch.randn(4, 5, 4)
    expected = st_adapter_ref(tokens, weights, placement)
    program = torch.export.export(module, (tokens,))
    torch.testing.assert_close(program.module()(tokens), expected)
    assert "stadapter" not in str(program.graph)  # runs without this package
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), expected)
    compiled(tokens).sum().backward()
    got = [w.grad for w in module.weights]
    for a, b in zip(
        got,
        torch.autograd.grad(st_adapter_ref(tokens, weights, placement).sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
