"""Loading Hugging Face vision towers: from folders and files, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones import create_backbone
from stadapter.backbones.transformers import CLIP_MEAN, CLIP_STD, TransformersViT

ensure_torchvision()
import transformers  # noqa: E402

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module", autouse=True)
def _quiet_library() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A whole CLIP, text tower and all, as people find it on the Hub."""
    folder = tmp_path_factory.mktemp("clip")
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
    text = {name: text[name] for name in text if name not in ("image_size", "patch_size")}
    config = transformers.CLIPConfig(vision_config=SMALL, text_config=text, projection_dim=16)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("vit")
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)).eval()
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def frames() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_folder_of_a_whole_clip_gives_its_vision_tower(
    clip: tuple[Any, Path], frames: Tensor
) -> None:
    model, folder = clip
    backbone = create_backbone(f"transformers/{folder}")
    assert isinstance(backbone, TransformersViT)
    assert torch.equal(
        backbone.model(frames).pooler_output, model.vision_model(frames).pooler_output
    )
    assert (backbone.pixels.mean, backbone.pixels.std) == (CLIP_MEAN, CLIP_STD)
    assert backbone.pixels.resolution == (32, 32)
    assert backbone.pixels.interpolation == "bicubic"


@torch.no_grad()
def test_weights_may_come_from_a_folder_or_a_file(
    clip: tuple[Any, Path], vit: tuple[Any, Path], frames: Tensor
) -> None:
    model, folder = clip
    backbone = create_backbone("transformers/openai/clip-vit-base-patch16", weights=folder)
    assert backbone.id == "transformers/openai/clip-vit-base-patch16"
    assert backbone.weights_file == str(folder)
    assert torch.equal(
        backbone.model(frames).pooler_output, model.vision_model(frames).pooler_output
    )
    model, folder = vit
    backbone = create_backbone(f"transformers/{folder}", weights=folder / "model.safetensors")
    assert torch.equal(
        backbone.model(frames).last_hidden_state, model.vit(frames).last_hidden_state
    )


def test_random_weights_are_the_same_each_time(vit: tuple[Any, Path]) -> None:
    id = f"transformers/{vit[1]}"
    first, second = (create_backbone(id, pretrained=False).fingerprint() for _ in range(2))
    assert first == second != create_backbone(id).fingerprint()


@pytest.mark.parametrize(
    ("processor", "resolution"),
    [
        ({"size": {"height": 24, "width": 16}}, (24, 16)),
        ({"size": {"shortest_edge": 40}}, (40, 40)),
        ({"size": 48}, (48, 48)),
        (
            {
                "size": {"shortest_edge": 64},
                "do_center_crop": True,
                "crop_size": {"height": 60, "width": 60},
            },
            (56, 56),
        ),
        ({}, (32, 32)),
    ],
)
def test_pixels_come_from_the_image_processor(
    vit: tuple[Any, Path], tmp_path: Path, processor: dict[str, Any], resolution: tuple[int, int]
) -> None:
    (tmp_path / "config.json").write_text((vit[1] / "config.json").read_text())
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**statistics, **processor}))
    pixels = create_backbone(f"transformers/{tmp_path}", pretrained=False).pixels
    assert pixels.resolution == resolution
    assert (pixels.mean, pixels.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert pixels.interpolation == "bicubic"


def test_weights_of_another_model_are_refused(
    clip: tuple[Any, Path], vit: tuple[Any, Path], tmp_path: Path
) -> None:
    id = f"transformers/{vit[1]}"
    with pytest.raises(ValueError, match=r"does not hold its weights; \d+ are missing"):
        create_backbone(id, weights=clip[1] / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="do not exist"):
        create_backbone(id, weights=tmp_path / "nowhere.safetensors")
    wide = transformers.ViTModel(transformers.ViTConfig(**{**SMALL, "intermediate_size": 128}))
    wide.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of another shape"):
        create_backbone(id, weights=tmp_path / "model.safetensors")


def test_models_without_a_view_are_named(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="'bert', which has no view; supported are clip_vision"):
        create_backbone(f"transformers/{tmp_path}")
    with pytest.raises(ValueError, match=r"no config at .*give a Hub name"):
        create_backbone(f"transformers/{tmp_path / 'nowhere'}")
    with pytest.raises(TypeError, match="give its vision tower, a ViTModel"):
        TransformersViT(transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)))


def test_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install stadapter\[transformers\]"):
        create_backbone("transformers/openai/clip-vit-base-patch16")


def test_siglip_without_a_head_is_the_mean_over_patches(frames: Tensor) -> None:
    config = transformers.SiglipVisionConfig(**SMALL, vision_use_head=False)
    model = transformers.SiglipVisionModel(config).eval()
    backbone = TransformersViT(model).eval()
    from stadapter.methods import LinearProbeConfig
    from stadapter.model import create_model

    with torch.no_grad():
        probe = create_model(backbone, num_classes=2, method=LinearProbeConfig()).eval()
        torch.testing.assert_close(
            probe.features(frames[:, None]), model(frames).last_hidden_state.mean(1)
        )
