"""Any number of frames, any multiple of the patch; who sees the order of frames; what trains."""

import pytest
import torch
from torch import Tensor, nn

from stadapter import (
    FullFinetuneConfig,
    LinearProbeConfig,
    STAdapterConfig,
    VideoClassifier,
    create_backbone,
    create_model,
)
from stadapter.methods import MethodConfig, STAdapter


def make(method: MethodConfig | None = None, num_classes: int = 4) -> VideoClassifier:
    """With filters away from zero, in evaluation mode."""
    method = method or STAdapterConfig(width=8)
    model = create_model("tiny", num_classes=num_classes, method=method, pretrained=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, STAdapter):
                nn.init.normal_(module.conv.weight, std=2.0)
    return model.eval()


def video(num_frames: int = 4, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(2, num_frames, 3, height, width)


# -- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "height", "width"),
    [(1, 16, 16), (2, 64, 64), (5, 8, 8), (3, 24, 40), (16, 40, 16)],
)
def test_any_number_of_frames_and_any_multiple_of_the_patch(
    num_frames: int, height: int, width: int
) -> None:
    clip = video(num_frames, height, width)
    model = make()
    with torch.no_grad():
        logits, features = model(clip), model.features(clip)
    assert logits.shape == (2, 4)
    assert features.shape == (2, model.backbone.width)
    assert logits.isfinite().all()


def test_each_clip_of_a_batch_is_by_itself() -> None:
    model, clip = make(), video()
    with torch.no_grad():
        together = model(clip)
        for i in range(2):
            torch.testing.assert_close(model(clip[i : i + 1])[0], together[i])


def test_the_stages_make_the_whole() -> None:
    model, clip = make(), video()
    with torch.no_grad():
        tokens, shape = model.run_blocks(*model.embed(clip))
        assert shape == (4, 2, 2, 1)
        assert tokens.shape == (2 * 4, 1 + 2 * 2, model.backbone.width)
        logits = model.adapter_set.head(model.backbone.pool(tokens, shape))
        assert torch.equal(logits, model(clip))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 3, 20, 16), r"height 20 .*'tiny'.*multiple of its patch size 8; the nearest is"),
        ((2, 4, 3, 16, 30), r"width 30 .*the nearest is 32"),
        ((2, 4, 3, 16, 3), r"width 3 .*the nearest is 8"),
        ((4, 3, 16, 16), r"\(4, 3, 16, 16\) must be \(B, T, 3, H, W\)"),
        ((2, 4, 1, 16, 16), r"must be \(B, T, 3, H, W\)"),
        ((2, 3, 4, 16, 16), r"must be \(B, T, 3, H, W\)"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(torch.zeros(shape))


# -- order of frames ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", [LinearProbeConfig(), FullFinetuneConfig()])
def test_averaging_over_frames_is_blind_to_order(method: MethodConfig) -> None:
    model, clip = make(method), video(6)
    with torch.no_grad():
        expected = model(clip)
        for _ in range(3):
            shuffled = clip[:, torch.randperm(6)]
            torch.testing.assert_close(model(shuffled), expected, rtol=0, atol=1e-5)


def test_st_adapters_see_the_order_once_their_filters_are_not_zero() -> None:
    model, clip = make(), video(6)
    with torch.no_grad():
        assert (model(clip) - model(clip.flip(1))).abs().max() > 1e-3
        for module in model.modules():
            if isinstance(module, STAdapter):
                nn.init.zeros_(module.conv.weight)
        torch.testing.assert_close(model(clip), model(clip.flip(1)), rtol=0, atol=1e-5)


# -- what trains -------------------------------------------------------------------------------


def test_full_fine_tuning_trains_every_weight_of_the_backbone() -> None:
    model = make(FullFinetuneConfig(dropout=0.0)).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = nn.functional.cross_entropy(model(video(2, 64, 64)), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert {n for n, _ in model.trained_parameters()} >= {
        f"backbone.{n}" for n, _ in model.backbone.named_parameters()
    }


@pytest.mark.parametrize(
    ("method", "trains"),
    [(STAdapterConfig(width=8), False), (LinearProbeConfig(), False), (FullFinetuneConfig(), True)],
)
def test_a_frozen_backbone_stays_in_evaluation_mode(method: MethodConfig, trains: bool) -> None:
    model = create_model("tiny", num_classes=2, method=method, pretrained=False)
    assert model.train() is model
    assert model.adapter_set.training
    assert all(module.training == trains for module in model.backbone.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_dropout_acts_in_training_only() -> None:
    model, clip = make(LinearProbeConfig(dropout=0.5)), video()
    with torch.no_grad():
        assert torch.equal(model(clip), model(clip))
        model.train()
        assert not torch.equal(model(clip), model(clip))


# -- making one --------------------------------------------------------------------------------


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first = create_backbone("tiny", pretrained=False).fingerprint()
    assert torch.equal(torch.get_rng_state(), before)
    assert create_backbone("tiny", pretrained=False).fingerprint() == first


def test_a_backbone_given_as_a_module_is_used_as_it_is() -> None:
    backbone = create_backbone("tiny", pretrained=False)
    model = create_model(backbone, num_classes=2)
    assert model.backbone is backbone
    with pytest.raises(ValueError, match="backbone_weights goes with a backbone given by name"):
        create_model(backbone, num_classes=2, backbone_weights="x.safetensors")


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_classes \(1\) must be at least 2"):
        create_model("tiny", num_classes=1, pretrained=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", r"unknown backbone 'tinny'; did you mean tiny"),
        ("timm/vit_bas_patch16_224", "did you mean .*vit_base_patch16_224"),
        ("vit_base_patch16_224", "did you mean .*timm/vit_base_patch16_224"),
        ("tiny/large", "unknown backbone 'tiny/large'"),
    ],
)
def test_unknown_backbones_name_near_matches(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=2, pretrained=False)


# -- cost --------------------------------------------------------------------------------------


def test_macs() -> None:
    """Of a linear probe, by hand: the ViT of each frame and the head."""
    K, T, D, N = 4, 3, 128, 2 * 3
    model = make(LinearProbeConfig(), num_classes=K).train()
    per_block = (N + 1) * 12 * D * D + 2 * (N + 1) ** 2 * D  # projections and MLP, attention
    frame = N * 3 * 8 * 8 * D + 4 * per_block
    assert model.count_macs(T, (16, 24)) == T * frame + D * K
    assert model.training
    assert next(model.parameters()).device.type == "cpu"


def test_adapters_cost_what_their_layers_cost() -> None:
    A, D, T, N = 8, 128, 3, 2 * 3
    plain = make(LinearProbeConfig()).count_macs(T, (16, 24))
    adapted = make(STAdapterConfig(width=A)).count_macs(T, (16, 24))
    assert adapted - plain == 8 * T * N * (2 * D * A + 3 * A)
