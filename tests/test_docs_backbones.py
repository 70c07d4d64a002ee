"""docs/backbones.md: its example runs, and the ids in its table exist."""

import re
from pathlib import Path
from typing import Any

import torch

from stadapter._torchvision import ensure_torchvision
from stadapter.backbones.timm import is_supported
from stadapter.backbones.transformers import FAMILIES
from stadapter.model import VideoClassifier

DOC = Path(__file__).parents[1] / "docs" / "backbones.md"
TEXT = DOC.read_text(encoding="utf-8")


def test_bring_your_own_model(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        exec(compile(block, str(DOC), "exec"), names)
    model, backbone_class = names["model"].eval(), names["MyViT"]
    assert names["logits"].shape == (2, 5)

    backbone = model.backbone
    frames = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        tokens = backbone.embed(frames)
        for layer in backbone.layers:  # PyTorch's own way through the same layers
            tokens = layer.eval()(tokens)
        torch.testing.assert_close(model.features(frames[:, None]), backbone.norm(tokens[:, 0]))

    model.save_pretrained(tmp_path)
    again = backbone_class()
    again.load_state_dict(backbone.state_dict())
    video = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(
            VideoClassifier.from_pretrained(tmp_path, backbone=again)(video), model(video)
        )


def test_named_backbones_exist() -> None:
    ensure_torchvision()
    import timm

    names = re.findall(r"`timm/([a-z][\w.]+)`", TEXT)
    assert len(names) > 20
    for name in names:
        assert is_supported(name), name
        assert "." not in name or name in timm.list_pretrained(), name


def test_every_family_of_transformers_is_in_the_table() -> None:
    assert len(re.findall(r"\| `transformers/", TEXT)) == len(FAMILIES) - 1  # registers share a row
