"""One table of methods drives what every method promises; then what is particular to ST-Adapter."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stadapter import create_model
from stadapter.methods import (
    METHODS,
    FullFinetuneConfig,
    LinearProbeConfig,
    MethodConfig,
    STAdapter,
    STAdapterConfig,
    method_from_dict,
)
from stadapter.model import VideoClassifier

METHOD_TABLE: dict[str, MethodConfig] = {
    "st_adapter": STAdapterConfig(width=12),
    "st_adapter, fraction": STAdapterConfig(width=0.25),
    "st_adapter, 3x3x3": STAdapterConfig(width=6, kernel_size=(3, 3, 3)),
    "st_adapter, 1x1x1": STAdapterConfig(width=6, kernel_size=(1, 1, 1)),
    "st_adapter, causal": STAdapterConfig(width=8, causal=True),
    "st_adapter, wide": STAdapterConfig(
        width=4, kernel_size=(5, 3, 3), padding="replicate", dilation=2
    ),
    "st_adapter, activation": STAdapterConfig(width=8, activation="quick_gelu"),
    "st_adapter, one site": STAdapterConfig(width=8, sites=("attention",)),
    "st_adapter, last block": STAdapterConfig(width=8, sites=("mlp",), last_blocks=1),
    "linear_probe": LinearProbeConfig(dropout=0.0),
    "full_finetune": FullFinetuneConfig(dropout=0.1),
}
FROZEN = [row for row, method in METHOD_TABLE.items() if method.name != "full_finetune"]
D, DEPTH = 128, 4  # of "tiny"


@pytest.fixture(autouse=True, scope="module")
def _every_method_has_a_row() -> None:
    assert {method.name for method in METHOD_TABLE.values()} == set(METHODS)


def make(row: str | MethodConfig, num_classes: int = 5) -> VideoClassifier:
    method = METHOD_TABLE[row] if isinstance(row, str) else row
    return create_model("tiny", num_classes=num_classes, method=method, pretrained=False)


def clips(num_frames: int = 3, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.randn(2, num_frames, 3, *size)


def train_some(model: VideoClassifier, steps: int = 3) -> None:
    """Optimiser steps with everything that could reach a weight: momentum and decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(clips()), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# -- every method ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", METHOD_TABLE)
def test_the_function_is_unchanged_at_the_start(row: str) -> None:
    """Bit for bit: the features of the frozen model come out."""
    video = clips()
    with torch.no_grad():
        features = make(row).eval().features(video)
        assert torch.equal(features, make("linear_probe").eval().features(video))


@pytest.mark.parametrize("row", METHOD_TABLE)
def test_what_is_declared_trains_and_nothing_else(row: str) -> None:
    model = make(row)
    declared = {id(parameter) for _, parameter in model.trained_parameters()}
    assert declared
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in declared), name
    before = snapshot(model)
    train_some(model)
    for name, parameter in model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        if ".adapters.mlp.3." in name:  # patches after the last attention: no class token sees them
            assert parameter.grad is not None, name
        else:
            assert changed == (id(parameter) in declared), name


@pytest.mark.parametrize("row", FROZEN)
def test_every_pretrained_weight_is_bit_identical_after_training(row: str) -> None:
    model = make(row)
    fingerprint = model.backbone.fingerprint()
    before = snapshot(model.backbone)
    train_some(model)
    after = model.backbone.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert model.backbone.fingerprint() == fingerprint


@pytest.mark.parametrize("row", METHOD_TABLE)
def test_saved_and_loaded_gives_equal_logits(row: str, tmp_path: Path) -> None:
    model = make(row)
    train_some(model)
    model.save_pretrained(tmp_path)
    loaded = VideoClassifier.from_pretrained(tmp_path)
    assert not loaded.training
    video = clips()
    with torch.no_grad():
        assert torch.equal(loaded(video), model(video))
    assert loaded.adapter_set.config == model.adapter_set.config


@pytest.mark.parametrize("row", METHOD_TABLE)
def test_bf16_autocast(row: str) -> None:
    model = make(row)
    train_some(model)
    video = clips()
    with torch.no_grad():
        exact = model(video)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(video)
    assert rough.isfinite().all()
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(video).float().sum().backward()
    for name, parameter in model.trained_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("row", METHOD_TABLE)
def test_settings_survive_json(row: str) -> None:
    method = METHOD_TABLE[row]
    again = method_from_dict(json.loads(json.dumps(method.to_dict())))
    assert again == method
    assert hash(again) == hash(method)


def test_a_file_without_the_later_settings_keeps_its_fingerprint() -> None:
    old = {"name": "st_adapter", "width": 8, "kernel_size": (3, 1, 1), "sites": ("mlp",)}
    old |= {"last_blocks": None, "activation": None, "causal": False, "dropout": 0.5}
    method = method_from_dict(old)
    assert method.to_dict() == old
    assert replace(method, dilation=2).to_dict() == old | {"dilation": 2}


@pytest.mark.parametrize("row", METHOD_TABLE)
def test_the_head_starts_as_published(row: str) -> None:
    linear = make(row, num_classes=50).adapter_set.head.linear
    assert linear.weight.shape == (50, D)
    assert 0.018 < float(linear.weight.detach().std()) < 0.022
    assert not linear.bias.any()


# -- ST-Adapter --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "width", "num_adapters"),
    [
        (STAdapterConfig(width=12), 12, 2 * DEPTH),
        (STAdapterConfig(width=384), 384, 2 * DEPTH),
        (STAdapterConfig(width=0.25), 32, 2 * DEPTH),
        (STAdapterConfig(width=1.0), D, 2 * DEPTH),
        (STAdapterConfig(width=0.001), 1, 2 * DEPTH),
        (STAdapterConfig(width=9, kernel_size=(3, 3, 3)), 9, 2 * DEPTH),
        (STAdapterConfig(width=9, sites=("mlp",)), 9, DEPTH),
        (STAdapterConfig(width=9, sites=("attention",), last_blocks=2), 9, 2),
    ],
)
def test_number_of_parameters(config: STAdapterConfig, width: int, num_adapters: int) -> None:
    """d*w+w down, k*w+w filter, w*d+d up."""
    K = 7
    model = make(config, num_classes=K)
    k = config.kernel_size[0] * config.kernel_size[1] * config.kernel_size[2]
    one = D * width + width + k * width + width + width * D + D
    assert sum(isinstance(m, STAdapter) for m in model.modules()) == num_adapters
    total, trained = model.num_parameters()
    assert trained == num_adapters * one + D * K + K
    assert total == trained + sum(p.numel() for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (STAdapterConfig(), {(s, b) for s in ("attention", "mlp") for b in range(DEPTH)}),
        (STAdapterConfig(last_blocks=1), {("attention", 3), ("mlp", 3)}),
        (STAdapterConfig(sites=("mlp",), last_blocks=2), {("mlp", 2), ("mlp", 3)}),
        (STAdapterConfig(sites=("attention",)), {("attention", b) for b in range(DEPTH)}),
    ],
)
def test_places(config: STAdapterConfig, expected: set[tuple[str, int]]) -> None:
    adapters: Any = make(config).adapter_set.adapters
    found = {(site, int(block)) for site, slots in adapters.items() for block in slots}
    assert found == expected


def trained_st_adapter(config: STAdapterConfig) -> VideoClassifier:
    """With filters away from zero."""
    model = make(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, STAdapter):
                nn.init.normal_(module.conv.weight)
    return model


@pytest.mark.parametrize(
    "config", [STAdapterConfig(width=8), STAdapterConfig(width=8, causal=True)]
)
def test_adapters_leave_prefix_tokens_and_their_input_alone(config: STAdapterConfig) -> None:
    model = trained_st_adapter(config)
    with torch.no_grad():
        tokens, shape = model.embed(clips())
        before = tokens.clone()
        adapted = model.adapter_set.adapt(tokens, "attention", 0, shape)
    assert shape.num_prefix == 1
    assert torch.equal(tokens, before)
    assert torch.equal(adapted[:, :1], tokens[:, :1])
    assert not torch.equal(adapted[:, 1:], tokens[:, 1:])


def test_causal_adapters_make_features_of_a_frame_depend_on_earlier_ones_only() -> None:
    video = clips(num_frames=5)
    changed = video.clone()
    changed[:, 3:] = torch.randn_like(changed[:, 3:])

    def differs(causal: bool) -> list[bool]:
        model = trained_st_adapter(STAdapterConfig(width=8, causal=causal))
        with torch.no_grad():
            a, b = (
                model.run_blocks(*model.embed(v))[0].unflatten(0, (2, 5)) for v in (video, changed)
            )
        return [not torch.allclose(a[:, t], b[:, t], atol=1e-6) for t in range(5)]

    assert differs(causal=True) == [False, False, False, True, True]
    assert differs(causal=False) == [True] * 5  # eight adapters reach over the whole clip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, r"width \(0\) must be at least 1"),
        ({"width": -3}, r"width \(-3\)"),
        ({"width": 0.0}, r"width \(0\.0\) as a fraction"),
        ({"width": 1.5}, r"width \(1\.5\) as a fraction"),
        ({"kernel_size": (2, 1, 1)}, r"kernel_size \(2, 1, 1\) must be three odd numbers"),
        ({"kernel_size": (3, 1)}, "kernel_size"),
        ({"kernel_size": (-1, 1, 1)}, "kernel_size"),
        ({"sites": ()}, "sites"),
        ({"sites": ("attention", "head")}, "sites"),
        ({"sites": ("mlp", "mlp")}, "sites"),
        ({"last_blocks": 0}, r"last_blocks \(0\)"),
        ({"activation": "tanh"}, "activation 'tanh' must be one of gelu"),
        ({"padding": "reflect"}, "padding 'reflect' must be one of"),
        ({"dilation": 0}, r"dilation \(0\) must be at least 1"),
        ({"dropout": 1.0}, r"dropout \(1\.0\)"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STAdapterConfig(**settings)


def test_more_blocks_than_the_backbone_has() -> None:
    with pytest.raises(ValueError, match=r"last_blocks \(5\) exceeds the 4 blocks of .*'tiny'"):
        make(STAdapterConfig(last_blocks=5))


def test_a_rate_of_zero_for_the_backbone() -> None:
    with pytest.raises(ValueError, match="backbone_lr_scale"):
        FullFinetuneConfig(backbone_lr_scale=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "prompts"}, "unknown method 'prompts'; known are st_adapter"),
        ({}, "unknown method None"),
        ({"name": "linear_probe", "width": 4}, "method 'linear_probe' has no setting width"),
    ],
)
def test_unknown_methods_and_settings_in_a_file(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_dict(settings)
