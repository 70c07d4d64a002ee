"""What every method promises, on every row of method_table.py."""

import copy
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from method_table import BACKBONE, METHOD_TABLE, ROWS, T, d
from torch import Tensor, nn

from stadapter import create_backbone, create_model
from stadapter.backbones.timm import TimmViT
from stadapter.backbones.tiny import PIXELS
from stadapter.methods import METHODS, LinearProbeConfig, MethodConfig, method_from_dict
from stadapter.model import VideoClassifier

FROZEN = [row for row, method in METHOD_TABLE.items() if not method.trains_backbone]
every_row = pytest.mark.parametrize("row", METHOD_TABLE)
frozen_row = pytest.mark.parametrize("row", FROZEN)
ONE_EACH = list({method.name: row for row, method in METHOD_TABLE.items()}.values())
K = 5


def make(row: str | MethodConfig, num_classes: int = K) -> VideoClassifier:
    method = METHOD_TABLE[row] if isinstance(row, str) else row
    return create_model("tiny", num_classes=num_classes, method=method, pretrained=False)


def clips(num_frames: int = T, size: tuple[int, int] = (16, 24)) -> Tensor:
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


@cache
def bare_features(video_seed: int) -> tuple[Tensor, Tensor]:
    """A video, and what the frozen backbone makes of it."""
    video = torch.randn(2, T, 3, 16, 24, generator=torch.Generator().manual_seed(video_seed))
    with torch.no_grad():
        return video, make(LinearProbeConfig()).eval().features(video)


def test_every_method_has_a_row() -> None:
    assert {method.name for method in METHOD_TABLE.values()} == set(METHODS)


@every_row
def test_the_function_at_the_start(row: str) -> None:
    """Bit for bit the features of the frozen model, where the method says so."""
    video, features = bare_features(0)
    with torch.no_grad():
        unchanged = torch.equal(make(row).eval().features(video), features)
    method = METHOD_TABLE[row]
    assert unchanged or not method.starts_unchanged
    if method.name in ("attentive_probe", "prompt_tuning"):
        assert not unchanged, "then it could promise more than it does"


@every_row
def test_what_is_declared_trains_and_nothing_else(row: str) -> None:
    """And gradients reach all of it, after the steps that zero-initialised parts need."""
    model = make(row)
    declared = {id(parameter) for _, parameter in model.trained_parameters()}
    assert declared
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in declared), name
    before = snapshot(model)
    train_some(model)
    for name, parameter in model.named_parameters():
        if id(parameter) not in declared:
            assert torch.equal(parameter, before[name]), name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name
            assert not torch.equal(parameter, before[name]), name


@frozen_row
def test_every_pretrained_weight_is_bit_identical_after_training(row: str) -> None:
    model = make(row)
    fingerprint = model.backbone.fingerprint()
    before = snapshot(model.backbone)
    train_some(model)
    after = model.backbone.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert (
        model.backbone.fingerprint()
        == fingerprint
        == create_backbone("tiny", pretrained=False).fingerprint()
    )


@every_row
def test_saved_and_loaded_gives_equal_logits(row: str, tmp_path: Path) -> None:
    model = make(row)
    train_some(model)
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)  # what a method draws at random must be in the file, or in its settings
    loaded = VideoClassifier.from_pretrained(tmp_path)
    assert not loaded.training
    video = clips(num_frames=T + 1)
    with torch.no_grad():
        assert torch.equal(loaded(video), model(video))
    assert loaded.adapter_set.config == model.adapter_set.config
    assert loaded.num_parameters() == model.num_parameters()


@every_row
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


@pytest.mark.parametrize("row", ONE_EACH)
def test_blocks_computed_again_in_backward_give_the_same_gradients(row: str) -> None:
    """Also where another model has taken the backbone in between."""
    model = make(row).eval()
    other = VideoClassifier(model.backbone, METHOD_TABLE["lora"].build(model.backbone, 2))
    model.set_adapter("default")
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    video = clips()
    gradients = []
    for every in (0, 1):
        model.checkpoint_every = every
        loss = model(video).square().sum()
        with torch.no_grad():
            other(video)
        gradients.append(torch.autograd.grad(loss, [p for _, p in model.trained_parameters()]))
    for again, kept in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept)


@pytest.mark.parametrize("row", [row for row in ONE_EACH if row in FROZEN])
def test_compiles_as_one_graph(row: str) -> None:
    """But for peft, some of whose layers look at the type of the weight."""
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    backbone = TimmViT(vit, id="two blocks", pixels=PIXELS).eval()
    method = METHOD_TABLE[row]
    model = create_model(backbone, num_classes=2, method=method).eval()
    video = torch.randn(1, T, 3, 16, 16)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=method.name != "peft")
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(0.1)
        torch.testing.assert_close(compiled(video), model(video), rtol=1e-4, atol=1e-4)


@every_row
def test_settings_survive_json(row: str) -> None:
    method = METHOD_TABLE[row]
    again = method_from_dict(json.loads(json.dumps(method.to_dict())))
    assert again == method
    assert hash(again) == hash(method)


@every_row
def test_the_head_starts_as_published(row: str) -> None:
    linear = make(row, num_classes=50).adapter_set.head.linear
    assert linear.weight.shape == (50, d)
    assert 0.018 < float(linear.weight.detach().std()) < 0.022
    assert not linear.bias.any()


@every_row
def test_the_order_of_frames_matters_to_those_that_say_so(row: str) -> None:
    model = make(row).eval()
    video = clips()
    with torch.no_grad():
        for _, parameter in model.trained_parameters():  # as training does
            parameter.add_(0.1 * torch.randn_like(parameter))
        logits = model(video)
        difference = (logits - model(video[:, [2, 0, 3, 1]])).norm() / logits.norm()
    if METHOD_TABLE[row].sees_order:
        assert difference > 1e-3
    else:
        assert difference < 1e-5


@every_row
def test_number_of_parameters(row: str) -> None:
    model = make(row)
    total, trained = model.num_parameters()
    head = d * K + K
    assert trained == ROWS[row].count + head
    assert total == BACKBONE + head + (ROWS[row].count if row in FROZEN else 0)


@frozen_row
def test_sets_take_turns_on_one_backbone(row: str, tmp_path: Path) -> None:
    """Also across models that share it, and after the set is deleted."""
    video, features = bare_features(1)
    mine = make(row)
    train_some(mine)
    backbone = mine.backbone
    other = VideoClassifier(backbone, METHOD_TABLE["lora"].build(backbone, 3))
    train_some(other)
    other.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted, theirs = mine(video), other(video)
        mine.load_adapter(tmp_path, name="other")
        mine.add_adapter("bare", LinearProbeConfig().build(backbone, 2))
        mine.eval()
        for _ in range(2):
            assert torch.equal(mine(video), wanted)
            mine.set_adapter("other")
            assert torch.equal(mine(video), theirs)
            mine.set_adapter("bare")
            assert torch.equal(mine.features(video), features)
            assert torch.equal(other(video), theirs)
            mine.set_adapter("default")
        mine.set_adapter("bare")
        mine.delete_adapter("default")
        assert torch.equal(mine.features(video), features)
    assert not [m for m in backbone.modules() if "forward" in m.__dict__]


@pytest.mark.parametrize("row", ONE_EACH)
def test_a_copy_is_a_model_of_its_own(row: str) -> None:
    video, _ = bare_features(2)
    model = make(row)
    train_some(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        wanted = model(video)
        assert torch.equal(twin(video), wanted)
        for parameter in twin.parameters():
            parameter.add_(0.1)
        assert torch.equal(model(video), wanted)
        assert not torch.equal(twin(video), wanted)


@pytest.mark.parametrize("row", ONE_EACH)
def test_cost_is_counted(row: str) -> None:
    model = make(row)
    bare = make(LinearProbeConfig())
    assert model.count_macs(T, (16, 24)) >= bare.count_macs(T, (16, 24)) - d * d
