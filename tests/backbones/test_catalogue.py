"""The listing of backbones."""

import pytest

from stadapter.backbones import catalogue
from stadapter.backbones.catalogue import BackboneEntry, list_backbones
from stadapter.backbones.tiny import load_tiny


def test_a_narrow_pattern_is_measured() -> None:
    entry = list_backbones("vit_base_patch16_clip_224.openai")[0]
    # 85.8 million without the text tower and the projection.
    assert entry == BackboneEntry(
        id="timm/vit_base_patch16_clip_224.openai",
        width=768,
        depth=12,
        patch=(16, 16),
        parameters=85_799_424,
        pretraining="openai",
        resolution=(224, 224),
    )


def test_sizes_on_meta_are_those_of_the_real_model() -> None:
    (entry,) = [entry for entry in list_backbones("tiny") if entry.id == "tiny"]
    backbone = load_tiny(pretrained=False)
    assert entry.parameters == sum(p.numel() for p in backbone.parameters())
    assert (entry.width, entry.depth) == (backbone.width, len(backbone.blocks))
    assert entry.resolution == backbone.pixels.resolution


def test_a_long_listing_leaves_sizes_out_rather_than_guess() -> None:
    entries = list_backbones()
    assert entries[0].id == "tiny"
    assert len(entries) > 200
    assert all(entry.parameters is None and entry.width is None for entry in entries)
    assert not any(entry.id.startswith(("timm/resnet", "timm/beit_")) for entry in entries)


def test_patterns() -> None:
    stars = [entry.id for entry in list_backbones("timm/vit_small_patch16_dinov3*")]
    assert "timm/vit_small_patch16_dinov3.lvd1689m" in stars
    assert all(id.startswith("timm/vit_small_patch16_dinov3") for id in stars)
    with pytest.raises(ValueError, match="no backbone matches 'dinov9'"):
        list_backbones("dinov9")


def test_weights_without_a_tag_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MEASURED", 0)
    (entry,) = list_backbones("timm/vit_base_patch16_rpn_224*")
    assert entry.pretraining == "sw_in1k"
    assert entry.width is None
