"""The published model: its numbers, its sizes, its checkpoints in and out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stadapter.backbones import OpenAIClip, create_backbone
from stadapter.backbones.openai_clip import TowerSize
from stadapter.checkpoint import load_adapter_config, load_tensors
from stadapter.methods import LinearProbeConfig, MethodConfig, STAdapterConfig
from stadapter.model import VideoClassifier, create_model
from stadapter.official import convert_official, load_official, to_official

GOLDEN = Path(__file__).with_name("golden")
CASES = ("official_12x_k311_last2", "official_24x_k311", "official_k333")
PARTS = {"down": "fc1", "conv": "conv", "up": "fc2"}
State = dict[str, Tensor]


class Golden:
    """One golden file, its tower and checkpoint written out as somebody would have them."""

    def __init__(self, name: str, folder: Path) -> None:
        path = GOLDEN / f"{name}.safetensors"
        self.tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])
        self.clip, self.adapter = folder / "clip.safetensors", folder / "checkpoint-11.pth"
        save_file(self.part("clip_visual."), self.clip)
        torch.save({"model": self.part("adapter_checkpoint."), "next_epoch": 12}, self.adapter)
        self.video = self.tensors["input_bcthw"].transpose(1, 2)  # (B, T, C, H, W)

    def part(self, prefix: str) -> State:
        return {n.removeprefix(prefix): t for n, t in self.tensors.items() if n.startswith(prefix)}

    def load(self) -> VideoClassifier:
        return load_official(clip=self.clip, adapter=self.adapter)


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


# The published numbers


def test_logits_and_loss_are_the_published_ones(golden: Golden) -> None:
    model = golden.load()
    assert not model.training
    with torch.no_grad():
        logits = model(golden.video)
    expected = golden.tensors
    assert (logits - expected["logits"]).abs().max() < 1e-5
    loss = F.cross_entropy(logits, expected["labels"])
    assert abs(loss - expected["loss"][0]) < 1e-5


def test_gradients_are_the_published_ones(golden: Golden) -> None:
    model = golden.load()
    F.cross_entropy(model(golden.video), golden.tensors["labels"]).backward()
    trained = dict(model.trained_parameters())
    expected = golden.part("grad.")
    assert len(expected) == 2 + 6 * (golden.config["pa"] + golden.config["pm"])
    for name, gradient in expected.items():
        ours = trained[ours_of(name)].grad
        assert ours is not None, name
        assert (ours - gradient).norm() <= 1e-4 * gradient.norm(), name
        largest = gradient.abs().max().item()
        torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6 * largest, msg=name)
    assert all(p.grad is None for p in model.backbone.parameters())


def test_last_adapter_before_the_mlp_reaches_no_class_token(tmp_path: Path) -> None:
    """True of the published model, too: patches changed there meet no attention any more."""
    golden = Golden("official_24x_k311", tmp_path)
    model = golden.load()
    F.cross_entropy(model(golden.video), golden.tensors["labels"]).backward()
    gradients = {name: p.grad for name, p in model.trained_parameters() if p.grad is not None}
    idle = {name for name, gradient in gradients.items() if not gradient.any()}
    assert idle == {name for name in gradients if name.startswith("adapters.mlp.1.")}
    assert not any(g.any() for n, g in golden.part("grad.").items() if "adapter_pre_mlp" in n)


def test_settings_come_from_the_tensors(golden: Golden) -> None:
    config = golden.config
    all_blocks = config["al"] == config["layers"]
    places = {"attention": config["pa"], "mlp": config["pm"]}
    assert golden.load().adapter_set.config == STAdapterConfig(
        width=config["aw"],
        kernel_size=config["k"],
        sites=tuple(site for site, used in places.items() if used),  # type: ignore[misc]
        last_blocks=None if all_blocks else config["al"],
    )


# The published sizes


B16 = TowerSize(width=768, depth=12, mlp_width=3072, patch_size=16, grid_size=14)
L14 = TowerSize(width=1024, depth=24, mlp_width=4096, patch_size=14, grid_size=16)
ONE: tuple[Any, ...] = ("mlp",)
BOTH: tuple[Any, ...] = ("attention", "mlp")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[..., VideoClassifier]:
    """Makes full-size models without memory; only their weights' fingerprint needs values."""
    monkeypatch.setattr(OpenAIClip, "fingerprint", lambda self: "none")

    def make(size: TowerSize, sites: tuple[Any, ...], num_classes: int) -> VideoClassifier:
        with torch.device("meta"):
            backbone = OpenAIClip(size)
            adapter_set = STAdapterConfig(sites=sites).build(backbone, num_classes)
            return VideoClassifier(backbone, adapter_set)

    return make


@pytest.mark.parametrize(
    ("size", "sites", "num_classes", "adapters", "trained"),
    [
        (B16, ONE, 174, 7_110_144, 7_243_950),
        (B16, ONE, 400, 7_110_144, 7_417_744),
        (B16, BOTH, 174, 14_220_288, 14_354_094),
        (B16, BOTH, 400, 14_220_288, 14_527_888),
        (L14, ONE, 174, 18_945_024, 19_123_374),
        (L14, ONE, 400, 18_945_024, 19_355_024),
        (L14, BOTH, 174, 37_890_048, 38_068_398),
        (L14, BOTH, 400, 37_890_048, 38_300_048),
    ],
)
def test_parameter_counts(
    published: Callable[..., VideoClassifier],
    size: TowerSize,
    sites: tuple[Any, ...],
    num_classes: int,
    adapters: int,
    trained: int,
) -> None:
    model = published(size, sites, num_classes)
    assert model.num_parameters()[1] == trained
    assert sum(p.numel() for p in model.adapter_set.adapters.parameters()) == adapters


@pytest.mark.parametrize(
    ("size", "sites", "three_views"),
    [
        (B16, ONE, (455, 910, 1819)),
        (B16, BOTH, (488, 976, 1953)),
        (L14, ONE, (2060, 4121, 8242)),
        (L14, BOTH, (2177, 4353, 8706)),
    ],
)
def test_macs_per_view(
    published: Callable[..., VideoClassifier],
    size: TowerSize,
    sites: tuple[Any, ...],
    three_views: tuple[int, int, int],
) -> None:
    model = published(size, sites, 400)
    for num_frames, gigamacs in zip((8, 16, 32), three_views, strict=True):
        counted = model.count_macs(num_frames, (224, 224)) / 1e9
        assert counted == pytest.approx(gigamacs / 3, rel=3e-3)


# Checkpoints of any placement, made here


SMALL = TowerSize(width=64, depth=3, mlp_width=128, patch_size=8, grid_size=2)
LAYOUTS: dict[str, dict[str, Any]] = {
    "12x": {"modules": ("adapter_pre_mlp",)},
    "24x": {},
    "pre_attention": {"modules": ("adapter_pre_attn",)},
    "last_2": {"blocks": (1, 2)},
    "last_1": {"blocks": (2,), "modules": ("adapter_pre_mlp",)},
    "k333": {"kernel": (3, 3, 3)},
    "k715": {"kernel": (7, 1, 5)},
}


def checkpoint(
    *,
    modules: tuple[str, ...] = ("adapter_pre_attn", "adapter_pre_mlp"),
    blocks: tuple[int, ...] = (0, 1, 2),
    kernel: tuple[int, int, int] = (3, 1, 1),
    width: int = 8,
    num_classes: int = 5,
) -> State:
    """What the published code would save, with random values, in its order."""
    rng = torch.Generator().manual_seed(0)
    D = SMALL.width
    state = {}
    for block in blocks:
        for module in modules:
            prefix = f"transformer.resblocks.{block}.{module}."
            state[prefix + "fc1.weight"] = torch.randn(width, D, generator=rng)
            state[prefix + "fc1.bias"] = torch.randn(width, generator=rng)
            state[prefix + "conv.weight"] = torch.randn(width, 1, *kernel, generator=rng)
            state[prefix + "conv.bias"] = torch.randn(width, generator=rng)
            state[prefix + "fc2.weight"] = torch.randn(D, width, generator=rng)
            state[prefix + "fc2.bias"] = torch.randn(D, generator=rng)
    state["fc.weight"] = torch.randn(num_classes, D, generator=rng)
    state["fc.bias"] = torch.randn(num_classes, generator=rng)
    return state


def ours_of(official: str) -> str:
    """Our name of a published tensor, spelled out here a second time."""
    if official.startswith("fc."):
        return f"head.linear.{official.removeprefix('fc.')}"
    _, _, block, module, layer, kind = official.split(".")
    site = {"adapter_pre_attn": "attention", "adapter_pre_mlp": "mlp"}[module]
    part = next(ours for ours, theirs in PARTS.items() if theirs == layer)
    return f"adapters.{site}.{block}.{part}.{kind}"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(OpenAIClip(SMALL).state_dict(), path)
    return path


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_gives_every_byte_back(layout: str, clip: Path, tmp_path: Path) -> None:
    state = checkpoint(**LAYOUTS[layout])
    adapter = save({"model": state}, tmp_path / "checkpoint-11.pth")
    run = convert_official(clip=clip, adapter=adapter, out=tmp_path / "run")
    assert sorted(p.name for p in run.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    tensors = load_tensors(run, load_adapter_config(run))
    for name, tensor in state.items():
        assert torch.equal(tensors[ours_of(name)], tensor)

    back = torch.load(to_official(run, tmp_path / "back" / "checkpoint-0.pth"), weights_only=True)
    assert back["next_epoch"] == 0
    assert list(back["model"]) == list(state)
    for name, tensor in back["model"].items():
        assert (tensor.dtype, tensor.shape) == (state[name].dtype, state[name].shape)
        assert tensor.numpy().tobytes() == state[name].numpy().tobytes()


def test_converted_run_is_an_ordinary_run(clip: Path, tmp_path: Path) -> None:
    adapter = save({"model": checkpoint()}, tmp_path / "checkpoint-11.pth")
    names = ["a", "b", "c", "d", "é"]
    run = convert_official(clip=clip, adapter=adapter, out=tmp_path / "run", class_names=names)
    model = load_official(clip=clip, adapter=adapter, class_names=names)
    again = VideoClassifier.from_pretrained(run)
    assert again.adapter_set.info.class_names == tuple(names)
    video = torch.randn(2, 3, 3, 16, 24)
    assert torch.equal(again(video), model(video))
    assert load_adapter_config(run).backbone_id == "openai_clip"
    assert load_adapter_config(run).backbone_fingerprint == model.backbone.fingerprint()


@pytest.mark.parametrize("form", ["released", "bare", "safetensors", "half"])
def test_forms_of_the_file(form: str, clip: Path, tmp_path: Path) -> None:
    state = checkpoint()
    path = tmp_path / "checkpoint-11.pth"
    if form == "released":
        parameters = [nn.Parameter(tensor.clone()) for tensor in state.values()]
        optimizer = torch.optim.AdamW(parameters)
        sum(p.sum() for p in parameters).backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        extras = {"optimizer": optimizer.state_dict(), "lr_sched": schedule.state_dict()}
        save({"model": state, **extras, "loss_scaler": {"scale": 65536.0}, "next_epoch": 12}, path)
    elif form == "bare":
        save(state, path)
    elif form == "safetensors":
        save_file(state, path := path.with_suffix(".safetensors"))
    else:
        state = {name: tensor.half() for name, tensor in state.items()}
        save(state, path)
    model = load_official(clip=clip, adapter=path)
    trained = dict(model.trained_parameters())
    assert len(trained) == len(state)
    for name, tensor in state.items():
        assert trained[ours_of(name)].dtype == torch.float32
        assert torch.equal(trained[ours_of(name)], tensor.float())


def test_zero_initialised_checkpoint_is_the_identity(clip: Path, tmp_path: Path) -> None:
    zero = ("fc1.bias", "fc2.bias", "conv.weight", "conv.bias")
    state = {n: t.zero_() if n.endswith(zero) else t for n, t in checkpoint().items()}
    model = load_official(clip=clip, adapter=save(state, tmp_path / "start.pth"))
    plain = create_model(create_backbone("openai_clip", weights=clip), num_classes=2).eval()
    probe = create_model(plain.backbone, num_classes=2, method=LinearProbeConfig()).eval()
    video = torch.randn(2, 4, 3, 16, 16)
    assert torch.equal(model.features(video), probe.features(video))
    assert torch.equal(plain.features(video), probe.features(video))


@pytest.mark.parametrize(("layout", "stride"), [("12x", 16), ("24x", None), ("k333", None)])
def test_info_says_how_the_released_models_see_videos(
    layout: str, stride: int | None, clip: Path, tmp_path: Path
) -> None:
    adapter = save(checkpoint(**LAYOUTS[layout]), tmp_path / "checkpoint-11.pth")
    info = load_official(clip=clip, adapter=adapter).adapter_set.info
    assert info.class_names == ("0", "1", "2", "3", "4")
    assert info.sampling == {"num_frames": 8, "frame_stride": stride}
    assert info.preprocessing == {
        "resolution": (16, 16),
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
        "interpolation": "bicubic",
    }


# What is refused


FIRST = "transformer.resblocks.0.adapter_pre_mlp."


def changed(**changes: Any) -> State:
    """A good checkpoint, with tensors of block 0's MLP adapter replaced, or left out by None."""
    state = checkpoint()
    for name, tensor in changes.items():
        state[FIRST + name.replace("_", ".")] = tensor
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def lacking(*fragments: str) -> State:
    return {n: t for n, t in checkpoint().items() if not any(f in n for f in fragments)}


ODD: dict[str, tuple[State, str]] = {
    "frozen": (
        checkpoint() | {"class_embedding": torch.zeros(64), "ln_post.bias": torch.zeros(64)},
        "unknown tensors class_embedding, ln_post.bias; .*without the frozen CLIP weights",
    ),
    "many_unknown": (
        {f"frozen.{i}": torch.zeros(1) for i in range(11)},
        r"frozen\.0, .*frozen\.7 and 3 more",
    ),
    "ddp": ({f"module.{n}": t for n, t in checkpoint().items()}, r"unknown tensors module\.tran"),
    "leading_zero": (
        {n.replace("resblocks.1", "resblocks.01"): t for n, t in checkpoint().items()},
        r"unknown tensors transformer\.resblocks\.01\.",
    ),
    "integers": (changed(fc1_bias=torch.zeros(8, dtype=torch.int64)), r"fc1\.bias must be float"),
    "no_adapters": (lacking("adapter"), "it holds no adapters"),
    "no_fc": (lacking("fc.weight"), r"fc\.weight is missing"),
    "no_fc_bias": (lacking("fc.bias"), r"fc\.bias is missing"),
    "one_class": (checkpoint(num_classes=1), r"fc\.weight is \(1, 64\).*at least 2 classes"),
    "gap": (checkpoint(blocks=(0, 2)), "blocks 0, 2, which are not the last 2 of .* 3 blocks"),
    "first_blocks": (checkpoint(blocks=(0, 1)), "blocks 0, 1, which are not the last 2"),
    "too_deep": (checkpoint(blocks=(2, 3)), "blocks 2, 3, which are not the last 2"),
    "sites": (
        lacking("resblocks.1.adapter_pre_attn"),
        "block 1 has adapters before mlp, block 2 before attention and mlp",
    ),
    "kernels": (
        changed(conv_weight=torch.zeros(8, 1, 5, 1, 1)),
        r"differs between adapters: .*\(8, 1, 5, 1, 1\) in transformer\.resblocks\.0\.",
    ),
    "widths": (changed(conv_weight=torch.zeros(9, 1, 3, 1, 1)), "width or kernel differs"),
    "even": (checkpoint(kernel=(2, 1, 1)), r"kernel_size \(2, 1, 1\) must be three odd numbers"),
    "not_depthwise": (
        {
            n: t.expand(8, 8, 3, 1, 1).contiguous() if "conv.weight" in n else t
            for n, t in checkpoint().items()
        },
        r"\(8, 8, 3, 1, 1\) must be \(A, 1, kT, kH, kW\)",
    ),
    "no_conv": (lacking("conv.weight"), r"no adapter has a conv\.weight"),
    "incomplete": (changed(fc2_bias=None, conv_weight=None), r"conv\.weight is missing, .*fc2\.bi"),
    "other_tower": (
        {n: torch.zeros(8, 96) if "fc1.weight" in n else t for n, t in checkpoint().items()},
        r"CLIP tower of width 64, .*fc1\.weight is \(8, 96\), must be \(8, 64\)",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_checkpoints_are_refused(case: str, clip: Path, tmp_path: Path) -> None:
    state, message = ODD[case]
    adapter = save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=message) as caught:
        convert_official(clip=clip, adapter=adapter, out=tmp_path / "run")
    assert "odd.pth is no checkpoint of the published ST-Adapter code" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_missing_and_unreadable_files(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ST-Adapter checkpoint .*nowhere\.pth"):
        load_official(clip=clip, adapter=tmp_path / "nowhere.pth")
    objects = save({"model": nn.Linear(2, 2)}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=r"objects\.pth is no readable file of plain tensors"):
        load_official(clip=clip, adapter=objects)
    adapter = save(checkpoint(), tmp_path / "checkpoint-11.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_official(clip=tmp_path / "nowhere.pt", adapter=adapter)
    with pytest.raises(ValueError, match="no CLIP vision transformer"):
        load_official(clip=adapter, adapter=adapter)


@pytest.mark.parametrize("names", [["a", "b"], []])
def test_class_names_must_match(names: list[str], clip: Path, tmp_path: Path) -> None:
    adapter = save(checkpoint(), tmp_path / "checkpoint-11.pth")
    message = rf"class_names has {len(names)} names, the checkpoint has 5 classes"
    with pytest.raises(ValueError, match=message):
        load_official(clip=clip, adapter=adapter, class_names=names)


def test_existing_run_is_kept_unless_overwritten(clip: Path, tmp_path: Path) -> None:
    adapter = save(checkpoint(), tmp_path / "checkpoint-11.pth")
    out = convert_official(clip=clip, adapter=adapter, out=tmp_path / "run")
    other = save(checkpoint(num_classes=3), tmp_path / "other.pth")
    with pytest.raises(FileExistsError, match="already holds a run"):
        convert_official(clip=clip, adapter=other, out=out)
    bad = save(lacking("fc.weight"), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"fc\.weight is missing"):
        convert_official(clip=clip, adapter=bad, out=out, overwrite=True)
    assert len(load_adapter_config(out).info.class_names) == 5
    (out / "metrics.json").write_text("{}")  # of the old run
    convert_official(clip=clip, adapter=other, out=out, overwrite=True)
    assert len(load_adapter_config(out).info.class_names) == 3
    assert not (out / "metrics.json").exists()
    with pytest.raises(FileExistsError, match=r"other\.pth is a file; give a folder"):
        convert_official(clip=clip, adapter=adapter, out=other)


def save_run(clip: Path, run: Path, method: MethodConfig, backbone_id: str = "openai_clip") -> Path:
    backbone = create_backbone("openai_clip", weights=clip)
    backbone.id = backbone_id
    create_model(backbone, num_classes=2, method=method).save_pretrained(run)
    return run


@pytest.mark.parametrize(
    ("method", "backbone_id", "message"),
    [
        (STAdapterConfig(activation="gelu"), "openai_clip", "activation is 'gelu', must be None"),
        (STAdapterConfig(causal=True), "openai_clip", "causal is True, must be False"),
        (STAdapterConfig(), "tiny", "its backbone is 'tiny'"),
        (STAdapterConfig(), "timm/vit_base_patch16_clip_224.openai", "QuickGELU only"),
        (LinearProbeConfig(), "openai_clip", "its method is 'linear_probe', not 'st_adapter'"),
    ],
)
def test_adapters_without_a_published_form_are_refused(
    method: MethodConfig, backbone_id: str, message: str, clip: Path, tmp_path: Path
) -> None:
    run = save_run(clip, tmp_path / "run", method, backbone_id)
    with pytest.raises(ValueError, match=message):
        to_official(run, tmp_path / "checkpoint-0.pth")
    assert not (tmp_path / "checkpoint-0.pth").exists()


@pytest.mark.parametrize(
    "backbone_id", ["openai_clip", "timm/vit_base_patch16_clip_quickgelu_224.openai"]
)
def test_adapters_trained_here_have_a_published_form(
    backbone_id: str, clip: Path, tmp_path: Path
) -> None:
    method = STAdapterConfig(width=0.25, last_blocks=2, sites=("mlp", "attention"))
    run = save_run(clip, tmp_path / "run", method, backbone_id)
    out = to_official(run, tmp_path / "checkpoint-0.pth")
    found = load_official(clip=clip, adapter=out).adapter_set.config
    assert found == STAdapterConfig(width=16, last_blocks=2)


def test_to_official_keeps_what_is_there(clip: Path, tmp_path: Path) -> None:
    run = save_run(clip, tmp_path / "run", STAdapterConfig(width=8))
    out = tmp_path / "checkpoint-0.pth"
    out.write_text("precious")
    with pytest.raises(FileExistsError, match=r"checkpoint-0\.pth exists"):
        to_official(run, out)
    assert out.read_text() == "precious"
    with pytest.raises(FileExistsError, match="is a folder; give a file"):
        to_official(run, tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        to_official(tmp_path, out, overwrite=True)
    to_official(run, out, overwrite=True)
    assert set(torch.load(out, weights_only=True)) == {"model", "next_epoch"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-0.pth", clip.name, "run"]


def test_to_official_does_not_need_the_clip_file(clip: Path, tmp_path: Path) -> None:
    run = save_run(clip, tmp_path / "run", STAdapterConfig(width=8))
    clip.unlink()
    assert to_official(run, tmp_path / "checkpoint-0.pth").is_file()
