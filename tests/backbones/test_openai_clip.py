"""CLIP's vision tower: every layout of the file, other resolutions, precision, save and load."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones import OpenAIClip, create_backbone
from stadapter.backbones.openai_clip import TowerSize
from stadapter.checkpoint import AdapterMismatchError
from stadapter.methods import LinearProbeConfig, STAdapterConfig
from stadapter.model import VideoClassifier, create_model

SIZE = TowerSize(width=128, depth=2, mlp_width=512, patch_size=8, grid_size=4)
State = dict[str, Tensor]


def random_state(size: TowerSize = SIZE, seed: int = 0) -> State:
    """A tower's tensors, none of them trivial; float32 values that float16 holds exactly."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in OpenAIClip(size).state_dict().items()}
    rng = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(s, generator=rng) * s[-1] ** -0.5 for name, s in shapes.items()}
    return {name: tensor.half().float() for name, tensor in state.items()}


def whole_model(state: Mapping[str, Tensor]) -> State:
    """As OpenAI's files have it: prefix, projection, text side, sizes."""
    return {
        "text_projection": torch.zeros(4, 4),
        "logit_scale": torch.zeros(()),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(4),
        "input_resolution": torch.tensor(32),
        "visual.proj": torch.zeros(128, 4),
        **{f"visual.{name}": tensor for name, tensor in state.items()},
    }


class Program(nn.Module):
    """Holds tensors under dotted names, so that TorchScript can archive them."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(last, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def save_torchscript(state: Mapping[str, Tensor], path: Path) -> None:
    torch.jit.trace(Program(state), torch.zeros(1)).save(path)


def write(state: Mapping[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(random_state(), tmp_path / "visual.safetensors")


def test_sizes_come_from_the_tensors(file: Path) -> None:
    backbone = create_backbone("openai_clip", weights=file)
    assert (backbone.id, backbone.width, len(backbone.blocks)) == ("openai_clip", 128, 2)
    assert (backbone.patch_size, backbone.num_prefix_tokens) == ((8, 8), 1)
    assert backbone.pixels.resolution == (32, 32)
    assert backbone.pixels.mean == (0.48145466, 0.4578275, 0.40821073)
    assert backbone.pixels.std == (0.26862954, 0.26130258, 0.27577711)
    assert backbone.pixels.interpolation == "bicubic"
    assert backbone.weights_file == str(file)
    assert all(block.width == 128 for block in backbone.blocks)


@pytest.mark.parametrize("layout", ["torchscript", "torchscript_visual", "whole", "bare", "nested"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_layout_gives_the_same_backbone(
    layout: str, dtype: torch.dtype, tmp_path: Path, file: Path
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random_state().items()}
    path = tmp_path / f"{layout}.pt"
    if layout == "torchscript":
        save_torchscript(whole_model(state), path)
    elif layout == "torchscript_visual":
        save_torchscript({**state, "proj": torch.zeros(128, 4)}, path)
    elif layout == "whole":
        path = write(whole_model(state), path.with_suffix(".safetensors"))
    elif layout == "nested":
        torch.save({"state_dict": whole_model(state), "epoch": 3}, path)
    else:
        write({**state, "proj": torch.zeros(128, 4)}, path)
    backbone = create_backbone("openai_clip", weights=path)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert set(backbone.state_dict()) == set(random_state())
    expected = create_backbone("openai_clip", weights=file)
    assert backbone.fingerprint() == expected.fingerprint()


def timm_twin(state: Mapping[str, Tensor]) -> nn.Module:
    """timm's own model of the same tower: an independent implementation to compare with."""
    ensure_torchvision()
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    twin = timm.create_model(
        "vit_base_patch16_clip_quickgelu_224",
        img_size=32,
        patch_size=8,
        embed_dim=128,
        depth=2,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
    )
    twin.load_state_dict(checkpoint_filter_fn(whole_model(state), twin), strict=False)
    return twin.eval()


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (16, 16), (24, 56)])
def test_equals_timm_at_every_resolution(size: tuple[int, int], file: Path) -> None:
    model = create_model(
        create_backbone("openai_clip", weights=file), num_classes=2, method=LinearProbeConfig()
    ).eval()
    frames = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.features(frames[:, None])
        theirs = timm_twin(random_state())(frames)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_position_table_keeps_class_token_and_orientation(file: Path) -> None:
    backbone = create_backbone("openai_clip", weights=file)
    assert isinstance(backbone, OpenAIClip)
    rows = torch.linspace(-1, 1, 4)[:, None].expand(4, 4).reshape(16, 1).expand(16, 128)
    with torch.no_grad():
        backbone.positional_embedding[1:] = rows  # grows downwards, constant from left to right
    table = backbone._position((8, 2))
    assert torch.equal(table[0], backbone.positional_embedding[0])
    grid = table[1:].reshape(8, 2, 128)
    torch.testing.assert_close(grid[:, 0], grid[:, 1])
    assert (grid[1:, 0, 0] > grid[:-1, 0, 0]).all()


def test_clip_feature_is_norm_of_mean_class_token(file: Path) -> None:
    backbone = create_backbone("openai_clip", weights=file)
    assert isinstance(backbone, OpenAIClip)
    model = create_model(backbone, num_classes=2, method=LinearProbeConfig()).eval()
    video = torch.randn(2, 3, 3, 32, 32)
    tokens, shape = model.run_blocks(*model.embed(video))
    expected = backbone.ln_post(tokens[:, 0].reshape(2, 3, -1).mean(1))
    assert torch.equal(backbone.pool(tokens, shape), expected)


def test_bf16_autocast_is_close_and_trains(file: Path) -> None:
    method = STAdapterConfig(width=16, dropout=0.0)
    model = create_model("openai_clip", num_classes=3, method=method, backbone_weights=file)
    video = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    exact = model(video)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(video)
    assert rounded.isfinite().all()
    # bf16 keeps 8 bits: errors of some 1e-2 of the logits' own size
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()
    rounded.float().sum().backward()
    grad = dict(model.trained_parameters())["adapters.attention.1.conv.weight"].grad
    assert grad is not None and grad.isfinite().all() and grad.any()
    assert all(p.grad is None for p in model.backbone.parameters())


def test_new_adapters_are_the_identity(file: Path) -> None:
    def make(method: STAdapterConfig | LinearProbeConfig) -> Tensor:
        model = create_model("openai_clip", num_classes=2, method=method, backbone_weights=file)
        return model.eval().features(torch.ones(1, 4, 3, 32, 48))

    assert torch.equal(make(STAdapterConfig(width=8)), make(LinearProbeConfig()))


def test_save_and_load(file: Path, tmp_path: Path) -> None:
    method = STAdapterConfig(width=16)
    model = create_model("openai_clip", num_classes=3, method=method, backbone_weights=file).eval()
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "run")
    video = torch.randn(1, 4, 3, 40, 32)
    assert torch.equal(VideoClassifier.from_pretrained(tmp_path / "run")(video), model(video))

    moved = file.rename(tmp_path / "moved.safetensors")
    with pytest.raises(FileNotFoundError, match=r"visual\.safetensors"):
        VideoClassifier.from_pretrained(tmp_path / "run")
    again = VideoClassifier.from_pretrained(tmp_path / "run", backbone_weights=moved)
    assert torch.equal(again(video), model(video))

    other = write(random_state(seed=5), tmp_path / "other.safetensors")
    with pytest.raises(AdapterMismatchError, match="frozen weights"):
        VideoClassifier.from_pretrained(tmp_path / "run", backbone_weights=other)


def without(state: State, *names: str) -> State:
    return {name: tensor for name, tensor in state.items() if name not in names}


BLOCK = "transformer.resblocks.1."
ODD_STATES = {
    "resnet": ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "ResNet CLIP tower"),
    "empty": ({}, "lacks class_embedding.*begins with nothing"),
    "timm": ({"cls_token": torch.zeros(1, 1, 8)}, "lacks class_embedding.*begins with cls_token"),
    "text_only": ({"visual.proj": torch.zeros(2, 2)}, "lacks class_embedding"),
    "no_table": (without(random_state(), "positional_embedding"), "lacks positional_embedding"),
    "not_square": (
        random_state() | {"positional_embedding": torch.zeros(16, 128)},
        r"positional_embedding \(16, 128\) must be \(1 \+ side \* side, 128\)",
    ),
    "flat_conv": (random_state() | {"conv1.weight": torch.zeros(128, 192)}, r"conv1\.weight \(128"),
    "odd_width": (
        random_state() | {"conv1.weight": torch.zeros(96, 3, 8, 8)},
        "width 96 is no multiple of the head width 64",
    ),
    "gap": (
        {n.replace("resblocks.1", "resblocks.2"): t for n, t in random_state().items()},
        r"blocks are numbered \[0, 2\]",
    ),
    "no_blocks": (
        {n: t for n, t in random_state().items() if "resblocks" not in n},
        r"blocks are numbered \[\]",
    ),
    "no_mlp": (
        without(random_state(), "transformer.resblocks.0.mlp.c_fc.weight"),
        r"mlp\.c_fc\.weight is missing",
    ),
    "missing": (without(random_state(), BLOCK + "ln_2.bias"), r"1\.ln_2\.bias is missing"),
    "unknown": (
        random_state() | {BLOCK + "ls_1.gamma": torch.zeros(128)},
        r"1\.ls_1\.gamma is unknown",
    ),
    "shape": (
        random_state() | {BLOCK + "ln_2.bias": torch.zeros(64)},
        r"1\.ln_2\.bias is \(64,\), needs \(128,\)",
    ),
    "many": (
        {n: t for n, t in random_state().items() if ".1.ln_" not in n and ".1.attn" not in n},
        r"and 3 more$",
    ),
}


@pytest.mark.parametrize("case", ODD_STATES)
def test_anything_else_is_refused(case: str, tmp_path: Path) -> None:
    state, message = ODD_STATES[case]
    path = tmp_path / "odd.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=message) as caught:
        create_backbone("openai_clip", weights=path)
    assert str(path) in str(caught.value)


def test_weights_are_needed(tmp_path: Path) -> None:
    for pretrained in (True, False):
        with pytest.raises(ValueError, match=r"is read from a file.*--backbone_weights"):
            create_backbone("openai_clip", pretrained=pretrained)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        create_backbone("openai_clip", weights=tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="did you mean openai_clip"):
        create_backbone("openai-clip")
    with pytest.raises(ValueError, match="unknown backbone"):
        create_backbone("openai_clip/ViT-B-16")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.pt"
    save_torchscript(whole_model(random_state()), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"archive\.pt is no readable file"):
        create_backbone("openai_clip", weights=path)

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/data.pkl", b"\xff" * 40)
    with pytest.raises(ValueError, match="damaged TorchScript archive"):
        create_backbone("openai_clip", weights=path)


def test_pickled_objects_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"visual": nn.Linear(2, 2)}, path)
    with pytest.raises(ValueError, match="no readable file of plain tensors"):
        create_backbone("openai_clip", weights=path)


def test_sizes_of_published_towers() -> None:
    """152 and 296 tensors with the projection; 85.8 M and 303.2 M weights without it."""
    for size, tensors, weights in (
        (TowerSize(768, 12, 3072, 16, 14), 152, 85_799_424),
        (TowerSize(1024, 24, 4096, 14, 16), 296, 303_179_776),
    ):
        with torch.device("meta"):
            tower = OpenAIClip(size)
        assert len(tower.state_dict()) + 1 == tensors
        assert sum(math.prod(p.shape) for p in tower.parameters()) == weights


def test_width_must_hold_whole_heads() -> None:
    with pytest.raises(ValueError, match=r"width \(100\) must be a multiple of 64"):
        OpenAIClip(TowerSize(width=100, depth=1, mlp_width=4, patch_size=8, grid_size=2))
