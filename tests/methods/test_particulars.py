"""What single methods say of themselves, beside what every method promises."""

import copy
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stadapter import create_backbone, create_model
from stadapter.backbones import TokenShape
from stadapter.cli.main import run
from stadapter.methods import (
    METHODS,
    AIMConfig,
    AttentiveProbeConfig,
    BidirectionalSTAdapterConfig,
    FrequencySTAdapterConfig,
    LinearProbeConfig,
    LoRAConfig,
    MethodConfig,
    PartialFinetuneConfig,
    PeftConfig,
    PromptTuningConfig,
    SpatialAdapterConfig,
    TemporalAttentionConfig,
)
from stadapter.model import VideoClassifier

T = 4


def make(method: MethodConfig) -> VideoClassifier:
    """With trained parameters away from where they start."""
    model = create_model("tiny", num_classes=3, method=method, pretrained=False).eval()
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def clips(num_frames: int = T) -> Tensor:
    return torch.randn(2, num_frames, 3, 16, 24)


def frames_that_change(model: VideoClassifier, num_frames: int = 6, changed: int = 3) -> list[bool]:
    """Of which frames the last tokens differ after one frame has been replaced."""
    video = clips(num_frames)
    other = video.clone()
    other[:, changed] = torch.randn_like(other[:, changed])
    with torch.no_grad():
        a, b = (model.run_blocks(*model.embed(v))[0] for v in (video, other))
    a, b = (x.reshape(2, num_frames, *x.shape[1:]) for x in (a, b))
    return [not torch.allclose(a[:, t], b[:, t], atol=1e-6) for t in range(num_frames)]


@torch.no_grad()
def test_a_pair_of_filters_that_listens_to_one_side() -> None:
    model = make(BidirectionalSTAdapterConfig(width=8, last_blocks=1, kernel_frames=2))
    for module in model.adapter_set.adapters["attention"].values():
        module.mix.fill_(100.0)
    for module in model.adapter_set.adapters["mlp"].values():
        module.mix.fill_(100.0)
    assert frames_that_change(model) == [False, False, False, True, True, True]
    for site in ("attention", "mlp"):
        model.adapter_set.adapters[site]["3"].mix.fill_(-100.0)
    assert frames_that_change(model) == [False, True, True, True, False, False]


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 2, 5, 8, 9])
def test_a_frequency_branch_of_gain_one_repeats_its_input(num_frames: int) -> None:
    model = make(FrequencySTAdapterConfig(width=8, num_frames=8))
    adapter: Any = model.adapter_set.adapters["mlp"]["0"]
    adapter.gain[0].fill_(1.0)
    adapter.gain[1].zero_()
    h = torch.randn(2, num_frames, 2, 3, 8)
    torch.testing.assert_close(adapter._gained(h), h)
    # A delay of one frame, around the end of the clip.
    if num_frames == 8:
        turn = -2 * torch.pi * torch.arange(5) / 8
        adapter.gain[0], adapter.gain[1] = turn.cos(), turn.sin()
        torch.testing.assert_close(adapter._gained(h), h.roll(1, dims=1))


@torch.no_grad()
def test_attention_over_time_stays_within_a_place() -> None:
    """AIM and temporal attention: a token sees its own place in other frames, and no other."""
    for method in (AIMConfig(num_frames=T), TemporalAttentionConfig(num_frames=T)):
        model = make(method)
        tokens = torch.randn(2 * T, 1 + 6, 128)
        shape = TokenShape(T, 2, 3, 1)
        changed = tokens.clone()
        changed[2, 4] = torch.randn(128)  # first clip, third frame, a patch
        a, b = (model.adapter_set.adapt(x, "attention", 1, shape) for x in (tokens, changed))
        differs = (a - b).abs().amax(-1) > 1e-6
        expected = torch.zeros_like(differs)
        expected[:T, 4] = True
        assert torch.equal(differs, expected)


@torch.no_grad()
def test_aim_uses_the_blocks_own_attention() -> None:
    model = make(AIMConfig(num_frames=T))
    adapter: Any = model.adapter_set.adapters["attention"]["2"]
    tokens = torch.randn(2 * T, 1 + 6, 128)
    expected = tokens.clone()
    block = model.backbone.blocks[2]
    for clip in range(2):
        for place in range(7):
            over_time = tokens[clip * T : (clip + 1) * T, place]  # (T, D)
            found = block.attention(over_time[None], TokenShape(1, T, 1, 0))[0]
            expected[clip * T : (clip + 1) * T, place] += adapter.bottleneck(found)
    got = model.adapter_set.adapt(tokens, "attention", 2, TokenShape(T, 2, 3, 1))
    torch.testing.assert_close(got, expected)


@torch.no_grad()
@pytest.mark.parametrize("deep", [False, True])
def test_prompts_are_tokens_of_each_frame_and_are_not_pooled(deep: bool) -> None:
    model = make(PromptTuningConfig(num_prompts=3, deep=deep))
    tokens, shape = model.embed(clips())
    longer, wider = model.adapter_set.prepare(tokens, shape)
    assert wider == (T, 2, 3, 4)
    assert torch.equal(longer[:, :1], tokens[:, :1])
    assert torch.equal(longer[:, 4:], tokens[:, 1:])
    prompts = longer[:, 1:4]
    assert torch.equal(prompts, prompts[:1].expand_as(prompts))
    last, end = model.run_blocks(tokens, shape)
    assert end == shape
    assert last.shape == tokens.shape
    # Deep prompts forget what the block before made of them, shallow ones do not.
    changed = longer.clone()
    changed[:, 1:4] += 1.0
    a, b = (model.adapter_set.adapt(x, "attention", 1, wider) for x in (longer, changed))
    assert torch.equal(a, b) == deep


@torch.no_grad()
def test_rotary_position_leaves_prompts_alone() -> None:
    """Prompts that no token attends to change nothing, so patches kept their own rotation."""
    from timm.models.eva import Eva

    from stadapter.backbones import PixelConfig
    from stadapter.backbones.timm import view_timm

    eva = Eva(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0,
              use_rot_pos_emb=True, dynamic_img_size=True, use_abs_pos_emb=False)  # fmt: skip
    backbone = view_timm(eva.eval(), id="eva")
    assert isinstance(backbone.pixels, PixelConfig)
    block = backbone.blocks[0]
    tokens, shape = torch.randn(2, 1 + 12, 32), TokenShape(1, 3, 4, 1)
    added = torch.randn(2, 2, 32)
    longer = torch.cat([tokens[:, :1], added, tokens[:, 1:]], dim=1)
    weights = block.attention_weights(tokens, shape)
    wider = block.attention_weights(longer, shape._replace(num_prefix=3))
    kept = [0, *range(3, 15)]
    shares = wider[:, :, kept][..., kept]
    torch.testing.assert_close(shares / shares.sum(-1, keepdim=True), weights)


@torch.no_grad()
def test_lora_is_a_change_of_weights() -> None:
    model = make(LoRAConfig(rank=2, alpha=6.0))
    video = clips()
    merged = create_model(copy.deepcopy(model.backbone), num_classes=3, method=LinearProbeConfig())
    for name, layer in model.adapter_set.overrides.items():
        update: Any = layer
        merged.backbone.get_submodule(name).weight += 3 * update.up.weight @ update.down.weight
    expected = merged.eval().features(video)
    torch.testing.assert_close(model.features(video), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_lora_of_peft_is_lora() -> None:
    own = make(LoRAConfig(rank=2, alpha=6.0))
    theirs = make(PeftConfig(settings={"r": 2, "lora_alpha": 6}))
    source = dict(own.trained_parameters())
    for name, parameter in theirs.trained_parameters():
        name = name.replace("lora_A.default", "down").replace("lora_B.default", "up")
        parameter.copy_(source[name])
    video = clips()
    torch.testing.assert_close(own(video), theirs(video))


@torch.no_grad()
def test_the_forms_of_the_spatial_adapter() -> None:
    tokens, branch = torch.randn(2, 3, 7, 128).unbind()
    shape = TokenShape(1, 2, 3, 1)
    parallel: Any = make(SpatialAdapterConfig(width=8, scale=0.3)).adapter_set
    b = parallel.branches["mlp"]["1"].bottleneck
    expected = branch + 0.3 * b.up(F.relu(b.down(tokens)))
    torch.testing.assert_close(parallel.adapt_branch(branch, tokens, "mlp", 1, shape), expected)
    serial: Any = make(SpatialAdapterConfig(width=8, form="serial")).adapter_set
    for site in ("attention", "mlp"):
        b = serial.branches[site]["1"].bottleneck
        expected = branch + b.up(F.gelu(b.down(branch)))
        torch.testing.assert_close(serial.adapt_branch(branch, tokens, site, 1, shape), expected)


@torch.no_grad()
def test_the_attentive_probe_reads_every_token_of_every_frame() -> None:
    model = make(AttentiveProbeConfig())
    tokens, shape = torch.randn(2 * T, 1 + 6, 128), TokenShape(T, 2, 3, 1)
    pool: Any = model.adapter_set.pool
    features = pool(tokens, shape)
    assert features.shape == (2, 128)
    for frame in range(T):
        for place in range(7):
            changed = tokens.clone()
            changed[frame, place] = torch.randn(128)
            moved = (pool(changed, shape) - features).abs().amax(-1) > 1e-7
            assert moved.tolist() == [True, False]


def test_partial_fine_tuning_trains_the_last_blocks_and_the_norm() -> None:
    model = make(PartialFinetuneConfig(last_blocks=2))
    names = {name.removeprefix("backbone.model.") for name, _ in model.trained_parameters()}
    assert {name.split(".")[0] for name in names} == {"blocks", "norm", "head"}
    assert {name.split(".")[1] for name in names if name.startswith("blocks")} == {"2", "3"}


def test_looking_for_layers_changes_nothing() -> None:
    backbone = create_backbone("tiny", pretrained=False)
    backbone.requires_grad_(False)
    next(backbone.parameters()).requires_grad_(True)
    for method in (LoRAConfig(), PartialFinetuneConfig()):
        method.build(backbone, 2)
    assert [p.requires_grad for p in backbone.parameters()].count(True) == 1
    assert all(p.grad is None for p in backbone.parameters())
    assert not any(m._forward_pre_hooks for m in backbone.modules())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRAConfig(targets=("qkv", "gate")), "no linear layer gate .*attn.qkv, attn.proj, mlp"),
        (PeftConfig(tuner="magic"), "has no tuner 'magic'; it has lora"),
        (PeftConfig(tuner="vera"), "'vera' cannot be used so: .*shared state"),
        (PeftConfig(tuner="prompt_tuning"), "'prompt_tuning' cannot be used so"),
        (PeftConfig(settings={"rank": 4}), "'lora' cannot be used so: .*rank"),
        (PeftConfig(tuner="miss", settings={"r": 4096}), "'miss' cannot be used so: .*`r`"),
        (PartialFinetuneConfig(last_blocks=5), r"last_blocks \(5\) exceeds the 4 blocks"),
        (AIMConfig(last_blocks=9), r"last_blocks \(9\) exceeds"),
        (TemporalAttentionConfig(last_blocks=9), r"last_blocks \(9\) exceeds"),
    ],
)
def test_what_does_not_fit_the_backbone(method: MethodConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("tiny", num_classes=2, method=method, pretrained=False)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("attentive_probe", {"num_queries": 0}, "num_queries"),
        ("partial_finetune", {"last_blocks": 0}, "last_blocks"),
        ("partial_finetune", {"backbone_lr_scale": 0}, "backbone_lr_scale"),
        ("prompt_tuning", {"num_prompts": 0}, "num_prompts"),
        ("spatial_adapter", {"form": "sideways"}, "form 'sideways' must be one of"),
        ("spatial_adapter", {"scale": 0}, "scale"),
        ("spatial_adapter", {"width": 0}, "width"),
        ("lora", {"rank": 0}, "rank"),
        ("lora", {"alpha": 0}, "alpha"),
        ("lora", {"lora_dropout": 1.0}, "lora_dropout"),
        ("lora", {"targets": ()}, "targets is empty"),
        ("peft", {"targets": []}, "targets is empty"),
        ("peft", {"settings": {"target_modules": ["qkv"]}}, "by targets"),
        ("temporal_attention", {"last_blocks": 0}, "last_blocks"),
        ("temporal_attention", {"num_frames": 0}, "num_frames"),
        ("aim", {"num_frames": 0}, "num_frames"),
        ("aim", {"scale": -1}, "scale"),
        ("st_adapter_bidirectional", {"kernel_frames": 1}, "kernel_frames"),
        ("st_adapter_frequency", {"kernel_frames": 2}, "kernel_frames"),
        ("st_adapter_frequency", {"num_frames": 0}, "num_frames"),
    ],
)
def test_impossible_settings(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METHODS[name](**settings)


def test_without_the_extra_peft_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install stadapter\[peft\]"):
        make(PeftConfig())
    make(LoRAConfig())


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        (
            ["lora", "--method.targets", "[qkv, mlp.fc1]", "--method.rank", "4"],
            LoRAConfig(rank=4, targets=("qkv", "mlp.fc1")),
        ),
        (
            ["peft", "--method.tuner", "lora", "--method.settings", '{"r": 4, "use_dora": true}'],
            PeftConfig(settings={"r": 4, "use_dora": True}),
        ),
        (["peft", "--method.settings.r", "4"], PeftConfig(settings={"r": 4})),
        (["spatial_adapter", "--method.width", "0.5"], SpatialAdapterConfig(width=0.5)),
        (["prompt_tuning", "--method.deep=false"], PromptTuningConfig(deep=False)),
    ],
)
def test_settings_on_the_command_line(
    flags: list[str], method: MethodConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", "--backbone", "tiny", "--num_classes", "3", "--method", *flags]) == 0
    _, trained = make(method).num_parameters()
    assert f"{trained:,}" in capsys.readouterr().out


@torch.no_grad()
def test_layers_that_are_a_kind_of_linear_are_changed_too() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    backbone = create_backbone("tiny", pretrained=False)
    for module in backbone.modules():
        if type(module) is nn.Linear:
            module.__class__ = Doubled
    bare = create_model(backbone, num_classes=2, method=LinearProbeConfig()).eval()
    video = clips()
    expected = bare.features(video)
    for method in (LoRAConfig(), PeftConfig()):
        model = create_model(backbone, num_classes=2, method=method).eval()
        assert model.adapter_set.overrides
        torch.testing.assert_close(model.features(video), expected)
