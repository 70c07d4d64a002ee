"""Options of the loop: what they must not change, and what they are for."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_ranks import assert_close_runs
from test_resume import stop_at
from test_train import assert_same_run, change, log_lines
from torch import Tensor

from stadapter import STAdapterConfig, VideoClassifier, create_model
from stadapter._torchvision import ensure_torchvision
from stadapter.backbones import PixelConfig
from stadapter.backbones.timm_vit import TimmViT
from stadapter.checkpoint import TENSORS
from stadapter.ranks import join_ranks
from stadapter.recipe import Recipe, train_recipe
from stadapter.train import TrainConfig, check_trackers
from stadapter.train.config import TrackerName
from stadapter.train.parallel import ParallelModel


@pytest.fixture
def plain(recipe: Recipe) -> Recipe:
    """Without dropout, whose numbers depend on how clips are batched."""
    return replace(recipe, method=STAdapterConfig(width=8, dropout=0.0))


def saved_bytes(model: VideoClassifier, video: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(video).sum()
    loss.backward()
    return sum(kept.values())


def small_model(depth: int, **method: Any) -> VideoClassifier:
    """A ViT of so many blocks with random weights, in training mode."""
    ensure_torchvision()
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        embed_dim=32,
        num_heads=2,
        depth=depth,
        num_classes=0,
        dynamic_img_size=True,
    )
    pixels = PixelConfig((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    backbone = TimmViT(model, id="small", pixels=pixels)
    config = STAdapterConfig(width=8, dropout=0.0, **method)
    return create_model(backbone, num_classes=3, method=config).train()


def gradients(model: VideoClassifier, video: Tensor) -> dict[str, Tensor]:
    """Of the trained parameters, after one backward pass."""
    model.zero_grad()
    model(video).square().sum().backward()
    return {n: p.grad.clone() for n, p in model.trained_parameters() if p.grad is not None}


def test_accumulated_batches_are_one_large_batch(
    collection: Path, plain: Recipe, tmp_path: Path
) -> None:
    """Also in the last step of an epoch, with three clips of four."""
    train_recipe(plain, collection, tmp_path / "large")
    small = change(plain, batch_size=1, accumulation_steps=4)
    train_recipe(small, collection, tmp_path / "accumulated")
    assert_close_runs(tmp_path / "accumulated", tmp_path / "large")


def test_an_interrupted_run_with_accumulation_goes_on_exactly(
    collection: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = change(recipe, batch_size=2, accumulation_steps=2, mixup=0.3, precision="fp16")
    train_recipe(wanted, collection, tmp_path / "alone")
    with monkeypatch.context() as patch:
        stop_at(2, patch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train_recipe(wanted, collection, tmp_path / "run")
    train_recipe(wanted, collection, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def test_fp16_scales_the_loss_and_skips_steps_that_overflow(
    collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    train_recipe(change(recipe, precision="fp16"), collection, tmp_path)
    lines = [line for line in log_lines(tmp_path) if "loss" in line]
    assert all(line["loss_scale"] > 0 for line in lines)
    assert any("grad_norm" in line for line in lines)
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / TENSORS).values())


@pytest.mark.parametrize("every", [1, 2, 3])
def test_gradient_checkpointing_keeps_less_and_changes_nothing(every: int) -> None:
    torch.manual_seed(0)
    model, video = small_model(4), torch.randn(2, 3, 3, 32, 32)
    for _, parameter in model.trained_parameters():  # not zero, so that all gradients are there
        torch.nn.init.normal_(parameter, std=0.1)
    bytes_before, expected = saved_bytes(model, video), gradients(model, video)
    model.checkpoint_every = every
    bytes_now, found = saved_bytes(model, video), gradients(model, video)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    recomputed = len(range(0, 4, every))
    assert bytes_now < bytes_before * (1 - 0.8 * recomputed / 4)


def test_a_run_with_gradient_checkpointing_is_the_same(
    trained_run: Path, collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """Dropout included: what it drew is drawn again."""
    train_recipe(change(recipe, checkpoint_every=1), collection, tmp_path)
    assert_same_run(tmp_path, trained_run)


def test_blocks_below_the_first_adapter_keep_nothing() -> None:
    """With adapters in the last k blocks, what is kept for the backward pass grows with k alone."""
    video = torch.randn(2, 3, 3, 32, 32)
    kept = {
        (depth, last): saved_bytes(small_model(depth, last_blocks=last), video)
        for depth, last in ((2, 1), (6, 1), (6, 3), (6, 6))
    }
    assert kept[6, 1] == kept[2, 1]
    assert kept[6, 1] < 0.3 * kept[6, 6]
    assert 0.4 * kept[6, 6] < kept[6, 3] < 0.6 * kept[6, 6]


def test_a_compiled_model_has_the_same_gradients() -> None:
    torch.manual_seed(0)
    model, video = small_model(1), torch.randn(2, 3, 3, 32, 32)
    for _, parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    expected = gradients(model, video)
    model.zero_grad()
    parallel = ParallelModel(model, join_ranks("cpu"), compiled=True)
    with parallel.gradients(exchanged=True):
        parallel.forward(video).square().sum().backward()
    for name, parameter in model.trained_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-3)


def test_trackers_get_the_log(collection: Path, recipe: Recipe, tmp_path: Path) -> None:
    train_recipe(change(recipe, epochs=1, trackers=("tensorboard",)), collection, tmp_path)
    [events] = (tmp_path / "events").glob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in (b"loss", b"lr", b"grad_norm", b"val_top1"):
        assert name in content


def test_a_missing_tracker_is_named_before_anything_is_written(
    collection: Path, recipe: Recipe, tmp_path: Path
) -> None:
    names: tuple[TrackerName, ...] = ("wandb", "mlflow")
    for name in names:
        try:
            check_trackers((name,))
        except ImportError as error:
            assert f"stadapter[{name}]" in str(error)
            with pytest.raises(ImportError, match="pip install"):
                train_recipe(change(recipe, trackers=(name,)), collection, tmp_path / "run")
            assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("accumulation_steps", 0),
        ("checkpoint_every", -1),
        ("ema_decay", 1.0),
        ("save_every_minutes", float("nan")),
        ("precision", "fp8"),
        ("trackers", ("paper",)),
    ],
)
def test_impossible_options_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        TrainConfig(**{setting: value})
