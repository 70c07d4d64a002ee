"""Names of timm: which are supported, what is refused and how."""

import warnings

import pytest

from stadapter.backbones import create_backbone
from stadapter.backbones import timm as timm_view
from stadapter.backbones.timm import ANY_RESOLUTION, PARALLEL, is_supported, load_timm


def test_what_has_a_view_is_decided_by_name() -> None:
    for name in (
        "vit_base_patch16_clip_224.openai",
        "vit_base_patch16_clip_224.metaclip_2pt5b",
        "vit_base_patch16_224.augreg_in21k",
        "deit_base_distilled_patch16_224",
        "eva02_large_patch14_448",
        "vit_large_patch16_dinov3",
        "vit_pe_core_base_patch16_224",
        "swin_base_patch4_window7_224",
        "swinv2_tiny_window8_256",
    ):
        assert is_supported(name), name
    for name in ("resnet50", "beit_base_patch16_224", "vit_base_patch16_xp_224", "no_such_vit"):
        assert not is_supported(name), name


def test_the_table_of_modules_and_exceptions_is_not_stale() -> None:
    import timm

    names = timm.list_models()
    homes = {timm.model_entrypoint(name).__module__ for name in names}
    assert {f"timm.models.{module}" for module in ANY_RESOLUTION} <= homes
    for part in PARALLEL:
        assert any(part in f"{name}_" for name in names), part


def test_unsupported_names_are_refused_before_anything_is_fetched() -> None:
    with pytest.raises(TypeError, match=r"'resnet50\.a1_in1k'.*has no view.*are plain ViTs"):
        create_backbone("timm/resnet50.a1_in1k")
    with pytest.raises(TypeError, match="has no view"):
        create_backbone("timm/vit_base_patch16_xp_224", pretrained=False)


def test_unknown_names_come_with_near_ones() -> None:
    with pytest.raises(ValueError, match="did you mean vit_base_patch16_224"):
        load_timm("vit_bse_patch16_224", weights=None, pretrained=False)
    with pytest.raises(ValueError, match="did you mean transformers/google/vit-base"):
        create_backbone("google/vit-base-patch16-224")


def test_clip_under_a_name_with_another_activation_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match=r"'vit_base_patch16_clip_quickgelu_224\.openai' is the"):
        timm_view._warn_of_quickgelu("vit_base_patch16_clip_224.openai")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timm_view._warn_of_quickgelu("vit_base_patch16_clip_quickgelu_224.openai")
        timm_view._warn_of_quickgelu("vit_base_patch16_clip_224.laion2b")
        timm_view._warn_of_quickgelu("swin_tiny_patch4_window7_224")


def test_native_size_is_what_the_patches_cover() -> None:
    import torch

    with torch.device("meta"):
        backbone = load_timm("vit_tiny_patch16_224", weights=None, pretrained=False)
    assert backbone.pixels.resolution == (224, 224)
    assert backbone.grid(224, 448) == (14, 28)
    with pytest.raises(ValueError, match="the nearest is 224"):
        backbone.grid(230, 224)
