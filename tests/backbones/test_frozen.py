"""Frozen weights stored smaller, and blocks computed again in backward: in every family."""

import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import ROWS, Row
from torch import Tensor, nn

from stadapter import FullFinetuneConfig, STAdapterConfig, VideoClassifier, create_model
from stadapter.backbones import create_backbone
from stadapter.backbones.frozen import Int8Linear, Storage, store_frozen
from stadapter.evaluate import EvalConfig
from stadapter.methods import METHODS
from stadapter.ops import frozen_linear, product_dtype
from stadapter.recipe import Recipe, evaluate_run, train_recipe


def num_bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def adapted(row: Row) -> VideoClassifier:
    """With adapters away from the identity, in training mode."""
    method = STAdapterConfig(width=8, dropout=0.0)
    model = create_model(row.make(), num_classes=3, method=method)
    with torch.no_grad():
        for parameter in model.adapter_set.parameters():
            nn.init.normal_(parameter, std=0.05)
    return model.train()


def gradients(model: VideoClassifier, video: Tensor) -> list[Tensor]:
    model.zero_grad()
    F.cross_entropy(model(video).float(), torch.tensor([0, 1])).backward()
    found = [parameter.grad for _, parameter in model.trained_parameters()]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family)
def test_recomputing_changes_no_gradient(row: Row) -> None:
    model, video = adapted(row), torch.randn(2, 2, 3, *row.native)
    expected = gradients(model, video)
    for recompute in ("activations", "mlp"):
        model.recompute = recompute  # type: ignore[assignment]
        for a, b in zip(gradients(model, video), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("storage", "gone"), [("bf16", 0.5), ("int8", 0.65)])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family)
def test_smaller_and_nearly_the_same(row: Row, storage: str, gone: float) -> None:
    """`gone` is a share of the linear layers' weights; of narrow ones, whose scales weigh much."""
    model, video = adapted(row), torch.randn(2, 2, 3, *row.native)
    expected = model.features(video).detach()
    before = num_bytes(model.backbone)
    linear = sum(num_bytes(m) for m in model.backbone.modules() if type(m) is nn.Linear)
    store_frozen(model.backbone, storage)  # type: ignore[arg-type]
    assert before - num_bytes(model.backbone) >= gone * linear
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=storage == "bf16"):
        got = model.features(video)
        gradients(model, video)
    assert (got.float() - expected).norm() <= 0.1 * expected.norm()


def test_frozen_linear_equals_a_linear_layer() -> None:
    linear = nn.Linear(12, 7).requires_grad_(False)
    x = torch.randn(2, 5, 12).transpose(0, 1).requires_grad_()
    grad = torch.randn(5, 2, 7)
    (expected,) = torch.autograd.grad(linear(x), x, grad)
    for stored in (linear.weight, linear.weight.bfloat16()):
        y = frozen_linear(x, stored, linear.bias)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, linear(x), rtol=0.02, atol=0.02)
        torch.testing.assert_close(
            torch.autograd.grad(y, x, grad)[0], expected, rtol=0.02, atol=0.05
        )


def test_half_precision_products_on_this_cpu() -> None:
    """Whatever type they are computed in, it is the nearest bf16 to the exact result."""
    x, weight = torch.randn(9, 33).bfloat16(), torch.randn(5, 33).bfloat16()
    y = frozen_linear(x, weight, None)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=0.01, atol=0.02)
    assert product_dtype(torch.device("cpu"), torch.float32) == torch.float32
    assert product_dtype(torch.device("cuda"), torch.bfloat16) == torch.bfloat16


def test_backward_keeps_the_stored_weight_only() -> None:
    weight = torch.randn(8, 4).bfloat16()
    x = torch.randn(100, 4, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        frozen_linear(x, weight, None)
    assert [t.data_ptr() for t in saved] == [weight.data_ptr()]


def test_int8_rounds_to_half_a_step() -> None:
    linear = nn.Linear(16, 4).requires_grad_(False)
    with torch.no_grad():
        linear.weight[2] = 0  # a row without any weight
    original = copy.deepcopy(linear.weight)
    stored = Int8Linear(linear)
    assert stored.values.dtype == torch.int8
    assert ((stored.weight - original).abs() <= stored.scale / 2 + 1e-9).all()


def test_trained_weights_and_unknown_storage_are_refused() -> None:
    model = create_model("tiny", num_classes=2, method=FullFinetuneConfig(), pretrained=False)
    with pytest.raises(ValueError, match=r"is for frozen weights, but .* is trained; use fp32"):
        store_frozen(model.backbone, "int8")
    with pytest.raises(ValueError, match=r"storage \(int4\) must be fp32, bf16 or int8"):
        store_frozen(create_backbone("tiny", pretrained=False), "int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_every_method_trains_on_smaller_weights_or_refuses(name: str, storage: Storage) -> None:
    config = METHODS[name]()
    if "num_frames" in {f.name for f in fields(config)}:
        config = replace(config, num_frames=2)  # type: ignore[call-arg]
    settings: dict[str, Any] = {"num_classes": 2, "method": config, "pretrained": False}
    if storage not in config.storages:
        with pytest.raises(ValueError, match=rf"backbone_storage {storage} does not go with"):
            create_model("tiny", **settings, backbone_storage=storage)
        return
    model = create_model("tiny", **settings, backbone_storage=storage).train()
    assert model.backbone_fingerprint == create_model("tiny", **settings).backbone_fingerprint
    frozen = [p.clone() for p in model.backbone.parameters()]
    optimizer = torch.optim.SGD([p for _, p in model.trained_parameters()], lr=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=storage == "bf16"):
        loss = F.cross_entropy(model(torch.randn(2, 2, 3, 32, 32)).float(), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    assert all(p.dtype == torch.float32 for _, p in model.trained_parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.parameters(), frozen, strict=True))


def test_a_run_on_smaller_weights(collection: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Its adapter file fits the weights as they were pretrained."""
    small = replace(recipe, backbone_storage="int8")
    train_recipe(small, collection, tmp_path / "run")
    evaluate_run(tmp_path / "run", None, EvalConfig(device="cpu", num_workers=0))
    with pytest.raises(ValueError, match="bf16 goes with precision bf16, not fp32"):
        train_recipe(replace(recipe, backbone_storage="bf16"), collection, tmp_path / "other")
    assert not (tmp_path / "other").exists()
