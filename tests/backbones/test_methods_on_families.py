"""Every method on one backbone of every kind: it works, or says why it cannot."""

import pytest
import torch
from families import ROWS, Row
from method_table import ROWS as METHOD_ROWS
from method_table import MethodRow, T

from stadapter.methods import LinearProbeConfig, MethodConfig
from stadapter.model import VideoClassifier, create_model

KINDS: dict[str, tuple[str, ...]] = {
    "DeiT distilled": (),
    "SigLIP, SigLIP 2": (),
    "post-norm ViT": (),
    "EVA": ("fused",),
    "EVA-02, split qkv": ("rotary",),
    "RoPE-ViT mixed": ("rotary",),
    "Swin": ("windows",),
    "Swin v2": ("windows", "fused"),
    "HF CLIP": (),
    "HF DINOv3": ("rotary",),
}
REFUSALS = {
    "windows": "within windows|tied to the patch grid",
    "rotary": r"tied to the patch grid \(rotary\)",
    "fused": "calls no linear layer .*; choose targets among",
}
METHODS = {row.method.name: row for row in reversed(METHOD_ROWS.values())}
rows = [row for row in ROWS if row.family in KINDS]


def make(row: Row, method: MethodConfig) -> VideoClassifier:
    torch.manual_seed(1)
    return create_model(row.make(), num_classes=3, method=method)


@pytest.mark.parametrize("row", rows, ids=lambda row: row.family)
@pytest.mark.parametrize("method_row", METHODS.values(), ids=METHODS)
def test_it_works_or_says_why_not(row: Row, method_row: MethodRow) -> None:
    method = method_row.method
    for kind in set(method_row.refuses) & set(KINDS[row.family]):
        with pytest.raises(ValueError, match=f"{row.make().id}.*{REFUSALS[kind]}"):
            make(row, method)
        return
    torch.manual_seed(2)
    video = torch.randn(2, T, 3, *row.other)
    model = make(row, method).eval()
    if method.starts_unchanged:
        with torch.no_grad():
            bare = make(row, LinearProbeConfig()).eval()
            features, expected = model.features(video), bare.features(video)
        # Matrix products of torch take another path where weights want gradients.
        if method.trains_backbone:
            torch.testing.assert_close(features, expected)
        else:
            assert torch.equal(features, expected)
    frozen = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    model.train()
    optimizer = torch.optim.AdamW((p for _, p in model.trained_parameters()), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(video), torch.tensor([0, 1])).backward()
        optimizer.step()
    # What a library's model has and the features do not need gets no gradient; nor, where the class
    # token alone is read out, an adapter of patches after the last attention.
    last = len(model.backbone.blocks) - 1
    silent = (f"adapters.mlp.{last}.", "backbone.model.pooler.", "backbone.model.embeddings.mask_t")
    declared = dict(model.trained_parameters())
    dead = [n for n, p in declared.items() if p.grad is None or not p.grad.any()]
    assert not [n for n in dead if not n.startswith(silent)], dead
    for name, tensor in model.backbone.state_dict().items():
        if f"backbone.{name}" not in declared:
            assert torch.equal(tensor, frozen[name]), name
    model.eval()
    with torch.no_grad():
        one_frame = model(video[:, :1])
        shuffled = model(video.flip(1))
    assert one_frame.isfinite().all()
    if not method.sees_order:
        torch.testing.assert_close(shuffled, model(video), rtol=1e-3, atol=1e-4)
