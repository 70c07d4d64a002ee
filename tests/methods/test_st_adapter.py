"""What is particular to ST-Adapter; what it shares with every method is in test_every_method.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stadapter import create_model
from stadapter.methods import STAdapter, STAdapterConfig, method_from_dict
from stadapter.model import VideoClassifier

D, DEPTH = 128, 4  # of "tiny"


def make(config: STAdapterConfig, num_classes: int = 5) -> VideoClassifier:
    return create_model("tiny", num_classes=num_classes, method=config, pretrained=False)


def clips(num_frames: int = 3) -> Tensor:
    return torch.randn(2, num_frames, 3, 16, 24)


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


def test_a_file_without_the_later_settings_keeps_its_fingerprint() -> None:
    old = {"name": "st_adapter", "width": 8, "kernel_size": (3, 1, 1), "sites": ("mlp",)}
    old |= {"last_blocks": None, "activation": None, "causal": False, "dropout": 0.5}
    method = method_from_dict(old)
    assert method.to_dict() == old
    assert replace(method, dilation=2).to_dict() == old | {"dilation": 2}
