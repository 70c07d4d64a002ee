"""An adapter file comes back as it was, or is refused with every reason; nothing is half loaded."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stadapter import (
    AdapterMismatchError,
    Backbone,
    FullFinetuneConfig,
    LinearProbeConfig,
    STAdapterConfig,
    VideoClassifier,
    create_backbone,
    create_model,
)
from stadapter.backbones.timm_vit import TimmViT
from stadapter.backbones.tiny import PIXELS
from stadapter.checkpoint import CONFIG, TENSORS, load_adapter_config, load_tensors
from stadapter.data import LabelSpace
from stadapter.hub import CARD
from stadapter.methods import MethodConfig, TaskInfo

INFO = TaskInfo(
    space=LabelSpace.single_label(("left [fast]", "right, então", 'turn "slow"')),
    preprocessing={"resolution": [32, 48]},
    sampling={"num_frames": 4, "frame_stride": None},
    scores={"val_top1": 0.5},
)


def make(method: MethodConfig | None = None, *, seed: int = 0) -> VideoClassifier:
    """With every trained weight at random."""
    torch.manual_seed(seed)
    method = method or STAdapterConfig(width=6)
    model = create_model("tiny", num_classes=3, method=method, pretrained=False)
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(torch.randn_like(parameter))
    model.adapter_set.info = INFO
    return model.eval()


def logits(model: VideoClassifier) -> Tensor:
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 2 * 3 * 3 * 16 * 16).view(2, 3, 3, 16, 16))


def narrow_backbone(depth: int = 2) -> Backbone:
    """Another, smaller one."""
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        img_size=PIXELS.resolution,
        patch_size=8,
        embed_dim=64,
        depth=depth,
        num_heads=4,
        num_classes=0,
        dynamic_img_size=True,
    )
    return TimmViT(vit, id="timm/narrow", pixels=PIXELS)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    make().save_pretrained(folder)
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    change(content)
    (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")


# -- round trip --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [STAdapterConfig(width=6), LinearProbeConfig(), FullFinetuneConfig()]
)
def test_what_is_saved_comes_back(method: MethodConfig, tmp_path: Path) -> None:
    model = make(method)
    model.save_pretrained(tmp_path)
    loaded = VideoClassifier.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.adapter_set.config == method
    assert loaded.adapter_set.info == INFO
    assert loaded.backbone_fingerprint == model.backbone_fingerprint
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert (again / CONFIG).read_bytes() == (tmp_path / CONFIG).read_bytes()
    first, second = load_file(tmp_path / TENSORS), load_file(again / TENSORS)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_was_trained_is_in_the_file(saved: Path) -> None:
    model = make()
    tensors = load_file(saved / TENSORS)
    expected = dict(model.trained_parameters())
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    assert sorted(p.name for p in saved.iterdir()) == [CARD, CONFIG, TENSORS]
    header_and_config = 20_000
    size = sum(p.stat().st_size for p in saved.iterdir())
    assert size < sum(t.numel() * 4 for t in tensors.values()) + header_and_config


def test_the_config_says_what_it_was_trained_on(saved: Path) -> None:
    content = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    assert content["backbone"]["id"] == "tiny"
    assert content["backbone"]["fingerprint"] == make().backbone.fingerprint()
    assert content["class_names"] == list(INFO.class_names)
    assert "então" in (saved / CONFIG).read_text(encoding="utf-8")


def test_full_fine_tuning_names_the_weights_it_came_from(tmp_path: Path) -> None:
    model = make(FullFinetuneConfig())
    origin = create_backbone("tiny", pretrained=False).fingerprint()
    assert model.backbone_fingerprint == origin != model.backbone.fingerprint()
    model.save_pretrained(tmp_path)
    assert load_adapter_config(tmp_path).backbone_fingerprint == origin


# -- another backbone --------------------------------------------------------------------------


def test_every_difference_is_listed(saved: Path) -> None:
    with pytest.raises(AdapterMismatchError) as caught:
        VideoClassifier.from_pretrained(saved, backbone=narrow_backbone())
    text = str(caught.value)
    assert "backbone: trained on 'tiny', loaded onto 'timm/narrow'" in text
    assert "frozen weights: trained on fingerprint" in text
    assert "tensor head.linear.weight: (3, 128) in the file, needs (3, 64)" in text
    assert "tensor adapters.attention.0.down.weight: (6, 128) in the file, needs (6, 64)" in text
    assert "tensor adapters.mlp.3.conv.weight: not part of the method" in text
    assert str(saved) in text
    assert len(caught.value.differences) == text.count("\n  - ")
    with pytest.raises(
        AdapterMismatchError, match=r"tensor adapters\.mlp\.5\.conv\.weight: missing"
    ):
        VideoClassifier.from_pretrained(saved, backbone=narrow_backbone(depth=6))


def test_other_weights_of_the_same_model(saved: Path) -> None:
    backbone = create_backbone("tiny", pretrained=False)
    with torch.no_grad():
        next(iter(backbone.parameters())).view(-1)[0] += 1e-3
    with pytest.raises(AdapterMismatchError) as caught:
        VideoClassifier.from_pretrained(saved, backbone=backbone)
    [difference] = caught.value.differences
    assert "frozen weights" in difference
    assert "--backbone_weights" in difference
    loaded = VideoClassifier.from_pretrained(saved, backbone=backbone, any_fingerprint=True)
    assert loaded.backbone is backbone


def test_a_method_that_the_backbone_cannot_hold(tmp_path: Path) -> None:
    make(STAdapterConfig(width=4, last_blocks=4)).save_pretrained(tmp_path)
    with pytest.raises(AdapterMismatchError, match=r"last_blocks \(4\) exceeds the 2 blocks"):
        VideoClassifier.from_pretrained(tmp_path, backbone=narrow_backbone())


def test_weights_that_are_gone(tmp_path: Path) -> None:
    weights = tmp_path / "tiny.safetensors"
    state = create_backbone("tiny", pretrained=False).model.state_dict()
    save_file({name: t + 0.01 for name, t in state.items()}, weights)
    model = create_model("tiny", num_classes=3, backbone_weights=weights)
    model.save_pretrained(tmp_path / "a")
    expected = logits(VideoClassifier.from_pretrained(tmp_path / "a"))
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(FileNotFoundError, match=r"tiny\.safetensors do not exist"):
        VideoClassifier.from_pretrained(tmp_path / "a")
    found = VideoClassifier.from_pretrained(tmp_path / "a", backbone_weights=moved)
    assert torch.equal(logits(found), expected)


@pytest.mark.parametrize("method", [STAdapterConfig(width=6), FullFinetuneConfig()])
def test_a_backbone_on_which_loading_fails_is_untouched(
    method: MethodConfig, tmp_path: Path
) -> None:
    make(method).save_pretrained(tmp_path)
    for backbone in (narrow_backbone(), narrow_backbone(depth=6)):
        before = backbone.fingerprint()
        with pytest.raises(AdapterMismatchError):
            VideoClassifier.from_pretrained(tmp_path, backbone=backbone)
        assert backbone.fingerprint() == before


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -1000])
def test_a_truncated_file(saved: Path, kept: int) -> None:
    path = saved / TENSORS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{TENSORS} is truncated or damaged"):
        VideoClassifier.from_pretrained(saved)


def test_any_flipped_byte_is_noticed_or_harmless(saved: Path) -> None:
    """Harmless are those of the header which say nothing about the tensors."""
    path = saved / TENSORS
    content, config = path.read_bytes(), load_adapter_config(saved)
    expected = load_tensors(saved, config)
    header = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    places = [*range(0, header, 11), *range(header, len(content), 1997), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            loaded = load_tensors(saved, config)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert place < header
            assert loaded.keys() == expected.keys()
            assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert refused > 0.9 * len(places)


def test_a_changed_tensor_is_refused(saved: Path) -> None:
    """Also when the file is whole: it carries the fingerprint of its content."""
    path = saved / TENSORS
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["head.linear.bias"] += 1e-3
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="damaged or edited after it was saved"):
        VideoClassifier.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["class_names"].reverse(), "that file was edited"),
        (lambda c: c["class_names"].append("more"), "that file was edited"),
        (lambda c: c["method"].update(width=7), "that file was edited"),
        (lambda c: c["sampling"].update(num_frames=9), "that file was edited"),
        (lambda c: c["preprocessing"].update(resolution=[8, 8]), "that file was edited"),
        (lambda c: c["backbone"].update(fingerprint="0" * 64), "that file was edited"),
        (lambda c: c["method"].update(name="prompts"), "unknown method 'prompts'"),
        (lambda c: c["method"].update(depth=2), "has no setting depth"),
        (lambda c: c["method"].update(width=-1), r"width \(-1\)"),
        (lambda c: c.update(schema_version=99), "schema_version is 99, .*update stadapter"),
        (lambda c: c.pop("schema_version"), "schema_version is None"),
        (lambda c: c.pop("class_names"), "entry 'class_names' is missing"),
        (lambda c: c.pop("method"), "entry 'method' is missing"),
        (lambda c: c.update(class_names=3), "wrong type"),
        (lambda c: c.update(backbone="tiny"), "wrong type"),
    ],
)
def test_an_edited_config(saved: Path, change: Callable[[Any], None], message: str) -> None:
    edit(saved, change)
    with pytest.raises(ValueError, match=message) as caught:
        VideoClassifier.from_pretrained(saved)
    assert str(saved) in str(caught.value)


def test_scores_may_be_edited(saved: Path) -> None:
    edit(saved, lambda content: content["scores"].update(note="tested twice"))
    loaded = VideoClassifier.from_pretrained(saved)
    assert loaded.adapter_set.info.scores["note"] == "tested twice"


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"schema_version": 1}', "\xff"])
def test_a_config_that_is_none(saved: Path, text: str) -> None:
    (saved / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{CONFIG} cannot be used"):
        VideoClassifier.from_pretrained(saved)


def test_missing_files(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere holds no adapter"):
        VideoClassifier.from_pretrained(tmp_path / "nowhere")
    (saved / TENSORS).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {TENSORS}"):
        VideoClassifier.from_pretrained(saved)
    (saved / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match="stadapter train --out"):
        VideoClassifier.from_pretrained(saved)


# -- atomic ------------------------------------------------------------------------------------


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The disk fails when the `number`-th file is put in place."""
    replace, calls = Path.replace, []

    def full(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)


def test_a_failed_save_leaves_the_old_adapter(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, 1)
    with pytest.raises(OSError, match="No space left"):
        make(seed=1).save_pretrained(saved)
    assert torch.equal(logits(VideoClassifier.from_pretrained(saved)), logits(make()))
    assert sorted(p.name for p in saved.iterdir()) == [CARD, CONFIG, TENSORS]


def test_a_kill_between_the_two_files_cannot_mix_two_tasks(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 2)
    other = make(seed=1)
    other.adapter_set.info = TaskInfo(LabelSpace.single_label(("a", "b", "c")))
    with pytest.raises(OSError, match="No space left"):
        other.save_pretrained(saved)
    with pytest.raises(ValueError, match=rf"was not saved with the {CONFIG} beside it"):
        VideoClassifier.from_pretrained(saved)


def test_a_kill_between_the_two_files_of_one_run_leaves_a_usable_adapter(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 2)
    with pytest.raises(OSError, match="No space left"):
        make(seed=1).save_pretrained(saved)
    assert torch.equal(logits(VideoClassifier.from_pretrained(saved)), logits(make(seed=1)))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make().save_pretrained(tmp_path / "file")


# -- label spaces ------------------------------------------------------------------------------

MANY = LabelSpace("multi_label", (("a", "b|c", "então"),))
PAIRS = LabelSpace("verb_noun", (("take", "put"), ("cup",)))


def with_space(space: LabelSpace, folder: Path) -> VideoClassifier:
    model = make()
    model.adapter_set.info = replace(INFO, space=space)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("space", [MANY, PAIRS], ids=lambda space: space.task)
def test_every_label_space_comes_back(space: LabelSpace, tmp_path: Path) -> None:
    model = with_space(space, tmp_path)
    loaded = VideoClassifier.from_pretrained(tmp_path)
    assert loaded.adapter_set.info == model.adapter_set.info
    assert torch.equal(logits(loaded), logits(model))
    content = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    assert content["schema_version"] == 2  # an older stadapter would misread it, so it refuses
    assert content["label_space"] == space.to_dict()
    assert all(name in (tmp_path / CARD).read_text() for name in space.vocabularies[0])


def test_one_class_per_clip_is_written_as_older_versions_read_it(saved: Path) -> None:
    content = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert "label_space" not in content
    meaning = {name: content[name] for name in ("schema_version", "method", "class_names")}
    meaning |= {name: content[name] for name in ("preprocessing", "sampling")}
    meaning["backbone"] = [content["backbone"]["id"], content["backbone"]["fingerprint"]]
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
    assert load_adapter_config(saved).fingerprint() == digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["label_space"].update(task="single_label"), "vocabularies label, but 2"),
        (lambda c: c["label_space"]["vocabularies"][0].reverse(), "that file was edited"),
        (lambda c: c["label_space"].update(task="guess"), "task 'guess' must be one of"),
        (lambda c: c["label_space"].pop("vocabularies"), "entries task, vocabularies"),
        (lambda c: c.update(label_space=3), "wrong type"),
    ],
)
def test_an_edited_label_space(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    with_space(PAIRS, tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        VideoClassifier.from_pretrained(tmp_path)
