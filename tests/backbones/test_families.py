"""What must hold for every backbone: the table is in `families.py`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from families import ROWS, Row
from torch import Tensor

from stadapter.methods import LinearProbeConfig, MethodConfig, STAdapterConfig
from stadapter.model import VideoClassifier, create_model


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These models are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family)


def _model(row: Row, method: MethodConfig | None = None) -> VideoClassifier:
    torch.manual_seed(1)
    return create_model(row.make(), num_classes=3, method=method or STAdapterConfig(width=8)).eval()


def _video(row: Row, num_frames: int, size: tuple[int, int] | None = None) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, num_frames, 3, *(size or row.native))


def _wake(model: VideoClassifier) -> None:
    """Give the adapters values, as training does; at first they are the identity."""
    torch.manual_seed(3)
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@every_row
@torch.no_grad()
def test_frozen_view_is_the_library(row: Row) -> None:
    model = _model(row, LinearProbeConfig())
    assert model.backbone.pixels.resolution == row.native
    for size in (row.native, row.other):
        video = _video(row, 1, size)
        expected = row.features(model.backbone.model, video[:, 0])
        torch.testing.assert_close(model.features(video), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape == (2, model.backbone.width)


@every_row
@torch.no_grad()
def test_new_adapters_change_nothing(row: Row) -> None:
    video = _video(row, 3, row.other)
    adapted, frozen = _model(row), _model(row, LinearProbeConfig())
    assert torch.equal(adapted.features(video), frozen.features(video))


@every_row
@torch.no_grad()
def test_frames_meet_only_in_adapters(row: Row) -> None:
    video = _video(row, 4)
    shuffled = video[:, [2, 0, 3, 1]]
    model = _model(row)
    torch.testing.assert_close(model.features(video), model.features(shuffled))
    _wake(model)
    assert not torch.allclose(model.features(video), model.features(shuffled), atol=1e-4)


@every_row
def test_only_declared_parameters_move(row: Row, tmp_path: Path) -> None:
    model = _model(row).train()
    frozen = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    before = {name: p.detach().clone() for name, p in model.trained_parameters()}
    optimizer = torch.optim.SGD((p for _, p in model.trained_parameters()), lr=1.0)
    loss = torch.nn.functional.cross_entropy(model(_video(row, 2)), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name
    assert all(p.grad is None for p in model.backbone.parameters())
    moved = {name for name, p in model.trained_parameters() if not torch.equal(p, before[name])}
    # After the last attention nothing flows from patches to the class token, so where that token
    # is the feature, the adapter before the last MLP has no gradient.
    last = len(model.backbone.blocks) - 1
    blocks = [(site, i) for site in ("attention", "mlp") for i in range(last + 1)]
    blocks.remove(("mlp", last))
    convolutions = {f"adapters.{site}.{i}.conv.weight" for site, i in blocks}
    assert convolutions | {"head.linear.weight", "head.linear.bias"} <= moved


@every_row
@torch.no_grad()
def test_saved_adapter_gives_the_same_logits(row: Row, tmp_path: Path) -> None:
    model = _model(row)
    _wake(model)
    model.save_pretrained(tmp_path)
    again = VideoClassifier.from_pretrained(tmp_path, backbone=row.make())
    video = _video(row, 2, row.other)
    assert torch.equal(again(video), model(video))


@every_row
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's RMSNorm
@torch.no_grad()
def test_low_precision_is_close(row: Row) -> None:
    model = _model(row)
    _wake(model)
    video = _video(row, 2, row.other)
    expected = model(video)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(video)
    assert (low.float() - expected).norm() < 0.05 * expected.norm()


@every_row
@torch.no_grad()
def test_compiles_as_one_graph(row: Row) -> None:
    """Captured whole by torch.compile; one row also goes through its lowering."""
    backend = "aot_eager" if row.family == "AugReg, MAE, DINO" else "eager"
    model = _model(row)
    _wake(model)
    video = _video(row, 2, row.other)
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(video), model(video), rtol=1e-4, atol=1e-4)
