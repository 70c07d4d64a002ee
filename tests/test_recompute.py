"""What is computed again in backward gives the same gradients, and saves what it is there for.

The published arithmetic of the benchmarks is what memory is held against.
"""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stadapter import STAdapterConfig, VideoClassifier
from stadapter.backbones import OpenAIClip
from stadapter.backbones.frozen import store_frozen
from stadapter.backbones.openai_clip import TowerSize
from stadapter.train import TrainConfig

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from published import PublishedModel
from retained import retained_bytes

RECOMPUTED = ("activations", "mlp")
SIZE = TowerSize(width=128, depth=3, mlp_width=512, patch_size=8, grid_size=8)
SITES = ["attention", "mlp"]


def fill(model: torch.nn.Module) -> None:
    """Every trained tensor away from zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)


def towers(sites: list[str]) -> tuple[PublishedModel, VideoClassifier]:
    """The published arithmetic and ours, with equal weights and no dropout."""
    towers = OpenAIClip(SIZE), OpenAIClip(SIZE)
    towers[1].load_state_dict(towers[0].state_dict())
    published = PublishedModel(towers[0], 5, 64, sites)
    published.dropout.p = 0.0
    fill(published)
    config = STAdapterConfig(width=64, sites=tuple(sites), dropout=0.0)  # type: ignore[arg-type]
    ours = VideoClassifier(towers[1], config.build(towers[1], 5), backbone_fingerprint="-")
    names = {"fc1": "down", "fc2": "up", "fc": "head.linear"}
    state = {}
    for name, tensor in published.state_dict().items():
        parts = [names.get(part, part) for part in name.split(".")]
        if parts[0] != "tower":
            state[".".join(parts)] = tensor
    ours.adapter_set.load_state_dict(state)
    return published.train(), ours.train()


def gradients(model: torch.nn.Module, video: Tensor) -> list[Tensor]:
    model.zero_grad()
    F.cross_entropy(model(video).float(), torch.tensor([1, 3])).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert found
    return found


@pytest.mark.parametrize("sites", [["mlp"], SITES])
def test_the_published_arithmetic_of_the_benchmarks_is_ours(sites: list[str]) -> None:
    published, ours = towers(sites)
    video = torch.randn(2, 3, 3, 64, 64)
    torch.testing.assert_close(published(video), ours(video), rtol=1e-5, atol=1e-5)


def test_together_with_checkpointed_blocks() -> None:
    _, model = towers(SITES)
    video = torch.randn(2, 2, 3, 64, 64)
    expected = gradients(model, video)
    model.recompute, model.checkpoint_every = "mlp", 2
    for a, b in zip(gradients(model, video), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("sites", "share"), [(["mlp"], 0.43), (SITES, 0.45)])
def test_saved_bytes_in_bf16(sites: list[str], share: float) -> None:
    """Per clip, as the difference of two clips and one: copies of weights do not count."""
    published, ours = towers(sites)
    published.tower.bfloat16()
    store_frozen(ours.backbone, "bf16")

    def saved(model: torch.nn.Module) -> int:
        def forward(clips: int) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits: Tensor = model(torch.zeros(clips, 4, 3, 64, 64))
            return logits

        one, two = (retained_bytes(lambda n=n: forward(n)) for n in (1, 2))
        return two - one

    base = saved(published)
    assert saved(ours) < base
    ours.recompute = "mlp"
    assert saved(ours) <= share * base


def test_saved_bytes_fall_with_each_step() -> None:
    _, model = towers(SITES)
    sizes = []
    for recompute in ("none", *RECOMPUTED):
        model.recompute = recompute  # type: ignore[assignment]
        sizes.append(retained_bytes(lambda: model(torch.zeros(1, 4, 3, 64, 64))))
    assert sizes[0] > 1.2 * sizes[1] > 1.2 * 1.2 * sizes[2]


def test_nothing_is_kept_without_gradients() -> None:
    _, model = towers(SITES)
    model.recompute = "mlp"
    video = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        expected = model(video)
    assert torch.equal(model(video), expected)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"recompute \(all\) must be .*activations, mlp"):
        TrainConfig(recompute="all")  # type: ignore[arg-type]
